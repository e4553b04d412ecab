// The dialog of a change: says from what to what, takes a reason, waits, and tells what came of it.

import { newKey, post } from "./api.js";
import { byId, el, put } from "./dom.js";
import { VERBS } from "./verbs.js";
import { span } from "./words.js";

/** Milliseconds between two questions for the outcome of what goes on. */
const AGAIN_MS = 1000;
/** Seconds between two sentences about what goes on: a screen reader reads each. */
const SAY_S = 5;

const UNKNOWN = " Whether it was done is not known: trying again asks for the same change, which is not done twice.";

export class Acts {
  /** notify(tone, text): says it on the page, also when the dialog was closed meanwhile. `may`: an operator is logged in. */
  constructor(fleet, notify) {
    Object.assign(this, { fleet, notify, may: false });
    this.dialog = byId("dialog");
    this.current = null;
    byId("dialog-cancel").addEventListener("click", () => this.dialog.close());
    byId("dialog-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.run(this.current);
    });
    this.dialog.addEventListener("close", () => this.closed());
  }

  /** Asks whether it shall be done. `name`: the model, or null for all. */
  open(verb, name = null) {
    const model = name === null ? {} : this.fleet.models.get(name);
    if (!model || this.dialog.open || !this.may) return;
    const kind = VERBS[verb];
    this.current = { verb, kind, model, key: newKey(), isRunning: false };
    this.opener = document.activeElement;
    put(byId("dialog-title"), kind.title(model));
    const lines = [["From", kind.from(model, this.fleet)], ["To", kind.to(model, this.fleet)]];
    const rows = lines.map(([word, text]) => el("div", {}, el("dt", {}, word), el("dd", {}, text)));
    byId("dialog-change").replaceChildren(el("dl", {}, ...rows));
    byId("dialog-fields").replaceChildren(...(kind.field ? [kind.field()] : []));
    byId("dialog-why").value = "";
    this.say("", "");
    this.busy(false);
    put(byId("dialog-do"), kind.button);
    this.dialog.showModal();
    byId("dialog-why").focus();
  }

  /** Escape, Cancel, or the end: the focus goes back to where it came from. */
  closed() {
    const act = this.current;
    if (act?.isRunning) this.notify("work", `${act.kind.title(act.model)} goes on.`);
    if (this.opener?.isConnected) this.opener.focus();
    else byId("main").focus();
  }

  async run(act) {
    if (act.isRunning) return;
    this.busy(true);
    act.isRunning = true;
    act.since = performance.now();
    const timer = setInterval(() => this.waiting(act), 1000);
    try {
      const found = await this.send(act, this.body(act));
      this.tell(act, isDone(found) ? "good" : "warn", act.kind.done(act.model, found));
      if (this.isShown(act)) this.dialog.close();
    } catch (error) {
      this.failed(act, error);
    } finally {
      clearInterval(timer);
    }
  }

  /** Sends it until its outcome is known; the key makes it one change, however often it is sent. */
  async send(act, body) {
    const path = act.verb.startsWith("clear") ? "clear" : `models/${encodeURIComponent(act.model.model)}/${act.verb}`;
    for (;;) {
      const found = await post(path, body, act.key);
      if (found.outcome !== "pending") return found;
      act.state = found.state;
      await new Promise((done) => setTimeout(done, AGAIN_MS));
    }
  }

  body(act) {
    const form = byId("dialog-form").elements;
    const given = { to: form.to?.value, pin: form.pin?.checked, share: form.share?.value };
    const why = byId("dialog-why").value.trim();
    return { ...act.kind.body?.(given, act.model), why };
  }

  failed(act, error) {
    const text = sentenceOf(error) + (error.isOpen ? UNKNOWN : "");
    act.isRunning = false;
    if (!this.isShown(act)) return this.notify("bad", `${act.kind.title(act.model)}: ${text}`);
    if (!error.isOpen) act.key = newKey(); // it was decided: another try is another request
    this.say("bad", text);
    this.busy(false);
    return undefined;
  }

  tell(act, tone, text) {
    act.isRunning = false;
    this.notify(tone, text);
  }

  waiting(act) {
    if (!this.isShown(act)) return;
    const seconds = (performance.now() - act.since) / 1000;
    const what = act.state ? `It is ${act.state}` : "Waiting for the workers";
    if (Math.floor(seconds) % SAY_S === 1) this.say("work", `${what}, since ${span(seconds)}. The dialog may be closed: it goes on.`);
  }

  isShown(act) {
    return this.dialog.open && this.current === act;
  }

  busy(isBusy) {
    byId("dialog-do").disabled = isBusy;
    put(byId("dialog-cancel"), isBusy ? "Close" : "Cancel");
  }

  say(tone, text) {
    const said = byId("dialog-said");
    said.className = `said ${tone}`;
    put(said, text);
  }
}

const isDone = (found) => !found.silent?.length && !Object.keys(found.failed ?? {}).length;

/** The sentence of an error, with a full stop. */
function sentenceOf(error) {
  const text = error.message.charAt(0).toUpperCase() + error.message.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
