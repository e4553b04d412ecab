// The audit log as it goes on, the newest first.

import { byId, el, mark, offerMore, sync } from "./dom.js";
import { details, isOfWorkers, sentence, tone } from "./told.js";
import { moment } from "./words.js";

/** Entries that are shown at once. */
const SHOWN = 25;

export class Log {
  constructor(fleet) {
    this.fleet = fleet;
    this.rows = new Map();
    this.isOpen = false;
    byId("log-kind").addEventListener("change", () => this.draw());
    byId("more-log").addEventListener("click", () => {
      this.isOpen = !this.isOpen;
      this.draw();
    });
  }

  draw() {
    const kind = byId("log-kind").value;
    const entries = this.fleet.events.filter((entry) => kind === "all" || isOfWorkers(entry) === (kind === "workers"));
    const shown = this.isOpen ? entries : entries.slice(0, SHOWN);
    const byKey = new Map(shown.map((entry) => [entry.id, entry]));
    sync(byId("log-rows"), [...byKey.keys()], this.rows, (id) => this.make(byKey.get(id)));
    byId("no-log").hidden = entries.length > 0;
    offerMore(byId("more-log"), entries.length > shown.length, entries.length, "entries", this.isOpen && entries.length > SHOWN);
  }

  make(entry) {
    const at = el("time", { class: "quiet", datetime: new Date(entry.at * 1000).toISOString() }, moment(entry.at, this.fleet.now()));
    const model = entry.model ? el("a", { href: `#/models/${entry.model}` }, entry.model) : null;
    const more = details(entry).join(" · ");
    const text = el("span", {}, model, model ? " " : null, sentence(entry), more ? el("span", { class: "quiet" }, ` · ${more}`) : null);
    return el("li", {}, at, mark(tone(entry)), text);
  }
}
