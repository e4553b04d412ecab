// The table of models.

import { byId, el, fill, offerMore, put, state, sync } from "./dom.js";
import { age, looked, number, percent, short, took } from "./words.js";

/** Models that are shown at once; of more, those with something going on come first. */
const SHOWN = 25;
/** Models from which on there is a field to find one. */
const FINDABLE = 10;
/** Seconds for which a candidate that came to nothing is told in the row of its model. */
const RECENT_S = 3600;

export class Models {
  constructor(fleet, acts) {
    this.fleet = fleet;
    this.acts = acts;
    this.rows = new Map();
    this.isOpen = false;
    byId("more-models").addEventListener("click", () => this.toggle());
    byId("model-filter").addEventListener("input", () => this.draw(true));
  }

  toggle() {
    this.isOpen = !this.isOpen;
    this.draw(true);
  }

  /** `all`: every row; else those of the models that have changed. */
  draw(all = false) {
    const { fleet } = this;
    const names = this.chosen();
    const shown = this.isOpen ? names : names.slice(0, SHOWN);
    const known = new Set(this.rows.keys());
    sync(byId("model-rows"), shown, this.rows, (name) => this.make(name));
    for (const name of shown) {
      if (all || fleet.changed.models.has(name) || !known.has(name)) this.update(this.rows.get(name), fleet.models.get(name));
    }
    put(byId("model-count"), number(fleet.models.size));
    byId("no-models").hidden = fleet.models.size > 0 || !fleet.isWhole.models;
    byId("model-find").hidden = fleet.models.size < FINDABLE;
    offerMore(byId("more-models"), names.length > shown.length, names.length, "models", this.isOpen && names.length > SHOWN);
  }

  chosen() {
    const wanted = byId("model-filter").value.trim().toLowerCase();
    const names = [...this.fleet.models.keys()].filter((name) => name.toLowerCase().includes(wanted)).sort();
    if (names.length <= SHOWN) return names;
    const calm = (name) => (this.fleet.models.get(name).phase === "idle" && !this.troubleOf(name) ? 1 : 0);
    return names.sort((a, b) => calm(a) - calm(b));
  }

  make(name) {
    const cells = {
      name: el("th", { scope: "row" }, el("a", { href: `#/models/${name}` }, name)),
      generation: el("td", { class: "number strong" }),
      version: el("td", { class: "wide code" }),
      since: el("td", { class: "middle" }, el("time")),
      holders: el("td", { class: "number middle" }),
      state: el("td", { class: "doing" }),
      acts: el("td", { class: "acts operator" }),
    };
    const row = el("tr", {}, ...Object.values(cells));
    return Object.assign(row, { parts: cells });
  }

  update(row, model) {
    const cells = row.parts;
    put(cells.generation, model.generation === null ? "–" : String(model.generation));
    put(cells.version, short(model.version));
    const time = cells.since.firstChild;
    time.at = model.committed_at;
    put(time, age(model.committed_at, this.fleet.now()));
    put(cells.holders, number(model.holders));
    const told = this.told(model);
    fill(cells.state, told, () => stateOf(told));
    fill(cells.acts, [model.phase, model.generation === null], () => this.buttons(model));
  }

  /** What goes on with a model: [{tone, text, done, of}]. */
  told(model) {
    const found = [];
    const work = workOf(model);
    if (work) found.push(work);
    const trouble = this.troubleOf(model.model);
    if (trouble && !work) found.push(trouble);
    if (model.pin) found.push({ tone: "warn", text: `pinned by ${model.pin.by}${model.pin.why ? `: ${model.pin.why}` : ""}` });
    if (model.unproven) found.push({ tone: "warn", text: "unproven: no worker has loaded it yet" });
    if (model.waits) found.push({ tone: "work", text: `a proposal by ${model.waits.by} waits` });
    if (model.watch) found.push({ tone: "work", text: `watched: may go back by itself` });
    if (found.length) return found;
    return [model.generation === null ? { tone: "quiet", text: "nothing active yet" } : { tone: "good", text: "steady" }];
  }

  /** A candidate that came to nothing lately, while nothing newer was committed. */
  troubleOf(name) {
    const flip = this.fleet.flips.last.get(name);
    if (!flip || flip.outcome === "committed" || this.fleet.now() - flip.endedAt > RECENT_S) return null;
    const model = this.fleet.models.get(name);
    if (!model || model.committed_at > flip.endedAt) return null;
    const why = flip.why ? `: ${flip.why}` : "";
    return { tone: flip.outcome === "rejected" ? "bad" : "warn", text: `${flip.generation} was ${flip.outcome}${why}` };
  }

  buttons(model) {
    if (!this.acts.may) return [];
    const button = (verb, word) => {
      const more = { "aria-label": `${word} ${model.model}`, onclick: () => this.acts.open(verb, model.model) };
      return el("button", { type: "button", ...more }, `${word}…`);
    };
    if (model.phase === "canary") return [button("promote", "Promote"), button("abort", "Abort")];
    if (model.phase !== "idle") return [button("abort", "Abort")];
    return model.generation === null ? [] : [button("rollback", "Roll back")];
  }
}

/** What is being done to a model, with how far it is, or null. */
function workOf(model) {
  const c = model.candidate;
  if (!c || model.phase === "idle") return null;
  const all = c.ready + c.awaited + c.failed + c.fenced;
  const failed = c.failed ? `, ${number(c.failed)} failed` : "";
  const share = c.share ?? 0;
  const phases = {
    preparing: [`preparing ${c.generation}: ${number(c.ready)} of ${number(all)} ready${failed}`, c.ready, all],
    canary: [`canary ${c.generation} answers ${percent(share)} of requests`, share, 1],
    fencing: [`fencing ${c.generation}: ${number(c.fenced)} of ${number(all)} fenced`, c.fenced, all],
  };
  const [text, done, of] = looked(phases, model.phase) ?? [`${model.phase} ${c.generation}`, 0, 0];
  return { tone: "work", text, done, of };
}

function stateOf(told) {
  return told.map(({ tone, text, of, done }) => {
    const line = el("div", { class: "line" }, state(tone, text));
    if (of) line.append(bar(done / of));
    return line;
  });
}

/** A bar for the eye; the text beside it says the same. */
export function bar(share) {
  const inner = el("span", {});
  inner.style.width = `${Math.round(100 * Math.min(1, share))}%`;
  return el("span", { class: "bar-of", "aria-hidden": "true" }, inner);
}

/** How much time a candidate has left, in words. */
export const leftOf = (candidate, now) =>
  candidate.deadline > now ? `${took(candidate.deadline - now)} left` : "its time is over";

