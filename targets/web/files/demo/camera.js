// A camera's live picture, or one line that says why there is none.

import { Failure } from "./engine.js";

const WHY = {
  NotAllowedError: "The browser does not let this page use the camera: allow it in the page's settings, or choose a picture.",
  NotFoundError: "This device has no camera that the browser knows of: choose a picture.",
  NotReadableError: "The camera is in use elsewhere: close the other app, or choose a picture.",
};

export class Camera {
  /** @type {MediaStream | undefined} */
  #stream;
  #facing = "environment";

  /** @param {HTMLVideoElement} video */
  constructor(video) {
    this.video = video;
  }

  get on() {
    return this.#stream !== undefined;
  }

  async start() {
    if (!navigator.mediaDevices) {
      throw new Failure(`A live camera needs https or localhost, and this page comes from ${location.origin}. ` +
        "“Choose a picture” can take a photo on a phone.", "CAMERA");
    }
    const wanted = { facingMode: this.#facing, width: { ideal: 1280 }, height: { ideal: 720 } };
    try {
      this.#stream = await navigator.mediaDevices.getUserMedia({ video: wanted });
    } catch (error) {
      throw new Failure(WHY[error.name] ?? `The camera cannot be used: ${error.message}`, "CAMERA");
    }
    this.video.srcObject = this.#stream;
    await this.video.play();
  }

  /** The camera of the other side, on a phone. */
  async turn() {
    this.#facing = this.#facing === "user" ? "environment" : "user";
    this.stop();
    await this.start();
  }

  stop() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#stream = undefined;
    this.video.srcObject = null;
  }

  /** Is there another camera to turn to? */
  static async several() {
    const devices = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
    return devices.filter((device) => device.kind === "videoinput").length > 1;
  }
}
