// The connection: follows the stream, notices that it is silent, and comes back by itself.

import { follow, NoAnswer, Problem } from "./api.js";

/** Seconds without a byte after which a connection counts as lost: the admin says something every 15. */
const SILENT_S = 35;
/** Seconds until the next try, doubled up to the longest; a quarter by chance, so that pages do not come back all at once. */
const FIRST_S = 0.5;
const LONGEST_S = 15;
/** Seconds after which a connection was a good one: the next try is soon again. */
const STEADY_S = 10;

export class Live {
  /** tell(event, data): what came; opened(): a connection begins, its first events hold everything; changed(): whether it is live;
      refused(): the token is not known any more. */
  constructor({ tell, opened, changed, refused }) {
    this.hooks = { tell, opened, changed, refused };
    this.lastId = "";
    this.isLive = false;
    this.retryAt = 0; // performance.now() of the next try
    this.why = "";
    this.wake = null;
    this.stopping = new AbortController();
    addEventListener("online", () => this.tryNow());
  }

  /** Runs until stop(). */
  async run() {
    let wait = FIRST_S;
    while (!this.stopping.signal.aborted) {
      const began = performance.now();
      await this.once();
      if (this.stopping.signal.aborted) return;
      if (performance.now() - began > STEADY_S * 1000) wait = FIRST_S;
      const chosen = wait * (0.75 + Math.random() / 2);
      this.retryAt = performance.now() + chosen * 1000;
      this.lost();
      await this.pause(chosen);
      wait = Math.min(2 * wait, LONGEST_S);
    }
  }

  stop() {
    this.stopping.abort();
    this.tryNow();
  }

  tryNow() {
    this.wake?.();
  }

  async once() {
    const attempt = new AbortController();
    const end = () => attempt.abort();
    this.stopping.signal.addEventListener("abort", end, { once: true });
    let watch = setTimeout(end, SILENT_S * 1000);
    this.isFirst = true;
    const heard = () => {
      clearTimeout(watch);
      watch = setTimeout(end, SILENT_S * 1000);
    };
    try {
      await follow(this.lastId, { tell: (...said) => this.hear(...said), heard, signal: attempt.signal });
      this.why = "the admin ended the connection";
    } catch (error) {
      this.failed(error);
    } finally {
      clearTimeout(watch);
      this.stopping.signal.removeEventListener("abort", end);
    }
  }

  failed(error) {
    if (error instanceof Problem && error.status === 401) {
      this.stopping.abort();
      this.hooks.refused();
    }
    const isKnown = error instanceof Problem || error instanceof NoAnswer;
    this.why = isKnown ? error.message : "the connection broke";
  }

  hear(event, data, id) {
    if (this.isFirst) {
      this.isFirst = false;
      this.isLive = true;
      this.hooks.opened();
      this.hooks.changed();
    }
    if (id) this.lastId = id;
    this.hooks.tell(event, data);
  }

  lost() {
    this.isLive = false;
    this.hooks.changed();
  }

  pause(seconds) {
    return new Promise((done) => {
      const timer = setTimeout(done, seconds * 1000);
      this.wake = () => {
        clearTimeout(timer);
        done();
      };
    });
  }
}
