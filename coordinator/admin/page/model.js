// One model: what is active, its candidate, its flips, its history and the difference between two generations.

import { get } from "./api.js";
import { CandidateView, figuresTable, limitsOf } from "./candidate.js";
import { difference, metricsOf } from "./diff.js";
import { byId, el, fill, put, state, sync } from "./dom.js";
import { Timeline } from "./timeline.js";
import { age, looked, number, short, took } from "./words.js";

/** Generations that are shown. */
const SHOWN = 50;

const TONES = { active: "good strong", rejected: "bad", aborted: "warn", candidate: "work" };

export class ModelView {
  constructor(fleet, acts, name) {
    Object.assign(this, { fleet, acts, name });
    this.history = [];
    this.rows = new Map();
    this.root = byId("detail");
    this.build();
    this.load();
  }

  build() {
    this.buttons = el("div", { class: "buttons operator" });
    this.facts = el("dl", { class: "facts" });
    this.watch = el("section", { class: "panel", hidden: true });
    this.candidate = new CandidateView(this.fleet, this.name);
    this.root.replaceChildren(
      el("p", {}, el("a", { href: "#/" }, "All models")),
      el("div", { class: "head" }, el("h2", { id: "detail-name", tabindex: "-1" }, this.name), this.buttons),
      this.facts, this.candidate.node, this.watch, this.flipsPart(), this.comparePart(), this.historyPart(),
    );
  }

  flipsPart() {
    const list = el("ol", { class: "flips" });
    const none = el("p", { class: "none" }, "None of its flips is in the log any more.");
    const more = el("button", { type: "button", class: "more", hidden: true });
    this.timeline = new Timeline(this.fleet, { list, none, more, model: this.name });
    return el("section", { class: "panel" }, el("div", { class: "head" }, el("h3", {}, "Flips")), list, none, more);
  }

  historyPart() {
    this.body = el("tbody", {});
    this.none = el("p", { class: "none", role: "status" }, "Reading the history");
    const names = ["Generation", "Outcome", "When", "By", "About", "Seconds", el("span", { class: "unseen" }, "Compare")];
    const heads = names.map((name, index) => el("th", { scope: "col", class: CLASSES[index] }, name));
    const table = el("table", { class: "history" }, el("caption", { class: "unseen" }, "Generations, the newest first"),
      el("thead", {}, el("tr", {}, ...heads)), this.body);
    return el("section", { class: "panel" }, el("div", { class: "head" }, el("h3", {}, "History")), table, this.none);
  }

  comparePart() {
    const choose = (id) => el("select", { id, onchange: () => this.compare() });
    this.older = choose("older");
    this.newer = choose("newer");
    this.difference = el("div", { class: "compared" });
    const label = (name, text) => el("label", { for: name, class: "find" }, text);
    const between = [label("older", "from generation"), this.older, label("newer", "to"), this.newer];
    return (this.compared = el("section", { class: "panel", hidden: true, tabindex: "-1", "aria-labelledby": "compare" },
      el("div", { class: "head" }, el("h3", { id: "compare" }, "Difference"), ...between), this.difference));
  }

  // --- drawing --------------------------------------------------------------------------------------------------

  draw(all = false) {
    const model = this.fleet.models.get(this.name);
    const { changed } = this.fleet;
    if (all || changed.models.has(this.name) || changed.log) {
      this.timeline.draw();
      if (this.phaseOf(model) !== this.loadedAt) this.load();
    }
    if (!model) return fill(this.facts, null, () => el("div", {}, el("dt", {}, "Model"), el("dd", {}, "The fleet does not know it.")));
    if (all || changed.models.has(this.name)) {
      this.drawFacts(model);
      this.drawButtons(model);
      this.drawWatch(model.watch);
    }
    this.candidate.draw();
    return undefined;
  }

  drawFacts(model) {
    const now = this.fleet.now();
    const facts = {
      Active: model.generation === null ? "nothing yet" : `generation ${model.generation}`,
      Version: short(model.version),
      Since: age(model.committed_at, now),
      By: model.author,
      Message: model.message,
      Metrics: metricsOf(this.history.find((row) => row.generation === model.generation) ?? {}),
      Holders: number(model.holders),
      Pinned: model.pin ? `by ${model.pin.by}, ${age(model.pin.at, now)}${model.pin.why ? `: ${model.pin.why}` : ""}` : "no",
      "A rollback goes to": model.way_back ? `the content of generation ${model.way_back}` : "",
      Waits: model.waits ? `version ${short(model.waits.version)} by ${model.waits.by}` : "",
      Poisoned: model.poisoned ? `${number(model.poisoned)} found bad and refused` : "",
      Unproven: model.unproven ? "no worker has loaded it yet" : "",
    };
    const told = Object.entries(facts).filter(([, fact]) => fact);
    fill(this.facts, told, () => told.map(([name, fact]) => {
      const more = name === "Version" ? { class: "code", title: model.version } : {};
      return el("div", {}, el("dt", {}, name), el("dd", more, fact));
    }));
  }

  drawButtons(model) {
    const isIdle = model.phase === "idle";
    const has = model.generation !== null;
    const verbs = [
      has && isIdle && ["rollback", "Roll back"],
      model.phase === "canary" && ["promote", "Promote"],
      !isIdle && ["abort", "Abort"],
      has && (model.pin ? ["unpin", "Unpin"] : ["pin", "Pin"]),
      has && ["refresh", "Refresh"],
      has && ["clear", "Clear"],
    ].filter(Boolean);
    if (!this.acts.may) return;
    const button = ([verb, word]) =>
      el("button", { type: "button", onclick: () => this.acts.open(verb, this.name) }, `${word}…`);
    fill(this.buttons, verbs, () => verbs.map(button));
  }

  drawWatch(watch) {
    this.watch.hidden = !watch;
    if (!watch) return;
    const left = Math.max(0, watch.until - this.fleet.now());
    const allowed = watch.policy ? ` than with ${limitsOf(watch.policy)}` : "";
    fill(this.watch, watch, () => [
      el("h3", {}, `Generation ${watch.generation} is watched`),
      el("p", {}, `For ${took(left)} more it goes back by itself if it does worse${allowed}.`),
      watch.figures ? figuresTable(watch.figures) : null,
    ].filter(Boolean));
  }

  // --- history --------------------------------------------------------------------------------------------------

  phaseOf(model) {
    return JSON.stringify([model?.generation, model?.phase === "idle", model?.candidate?.generation]);
  }

  async load() {
    this.loadedAt = this.phaseOf(this.fleet.models.get(this.name));
    try {
      this.history = (await get(`models/${encodeURIComponent(this.name)}/history?limit=${SHOWN}`)).generations;
      put(this.none, this.history.length ? "" : "Nothing is kept of its generations.");
    } catch (error) {
      put(this.none, `The history could not be read: ${error.message}.`);
    }
    this.none.hidden = !this.none.textContent;
    this.drawHistory();
  }

  drawHistory() {
    const byKey = new Map(this.history.map((row) => [row.generation, row]));
    sync(this.body, [...byKey.keys()], this.rows, () => this.makeRow());
    for (const [number_, row] of byKey) this.updateRow(this.rows.get(number_), row);
    const options = this.history.filter((row) => row.artifacts?.length).map((row) => row.generation);
    for (const select of [this.older, this.newer]) {
      const chosen = select.value;
      fill(select, options, () => options.map((one) => el("option", { value: one }, String(one))));
      if (options.map(String).includes(chosen)) select.value = chosen;
    }
  }

  makeRow() {
    const cells = [el("th", { scope: "row", class: CLASSES[0] }), ...CLASSES.slice(1).map((name) => el("td", { class: name }))];
    return Object.assign(el("tr", {}, ...cells), { parts: cells });
  }

  updateRow(row, entry) {
    const [generation, outcome, when, by, about, seconds, compare] = row.parts;
    const version = () => el("span", { class: "code under", title: entry.version }, short(entry.version));
    fill(generation, [entry.generation, entry.version], () => [el("b", {}, String(entry.generation)), version()]);
    const word = entry.active ? "active" : entry.outcome;
    const at = entry.decided_at ?? entry.created_at;
    const moment = () => Object.assign(el("time", {}, age(at, this.fleet.now())), { at });
    fill(outcome, [word], () => state(looked(TONES, word) ?? "quiet", word));
    fill(when, [at], moment);
    put(by, entry.author);
    put(about, aboutOf(entry));
    put(seconds, secondsOf(entry.seconds));
    const before = this.before(entry);
    fill(compare, [before?.generation, entry.generation], () => (before ? this.comparing(before, entry) : ""));
  }

  comparing(before, entry) {
    const label = `Compare ${entry.generation} with ${before.generation}`;
    return el("button", { type: "button", "aria-label": label, onclick: () => this.show(before, entry) }, "Compare");
  }

  /** The generation that answers came from before this one, if both manifests are kept. */
  before(entry) {
    const isBefore = (row) => row.generation < entry.generation && row.outcome === "committed" && row.artifacts?.length;
    return entry.artifacts?.length ? this.history.find(isBefore) : undefined;
  }

  show(before, after) {
    this.older.value = String(before.generation);
    this.newer.value = String(after.generation);
    this.compared.hidden = false;
    this.compare();
    this.compared.scrollIntoView({ block: "nearest" });
    this.compared.focus({ preventScroll: true });
  }

  compare() {
    const find = (select) => this.history.find((row) => String(row.generation) === select.value);
    const [before, after] = [find(this.older), find(this.newer)];
    if (before && after) fill(this.difference, [before.generation, after.generation], () => difference(before, after, this.fleet.now()));
  }
}

const CLASSES = ["", "doing", "middle", "middle", "about", "wide", "acts"];

function aboutOf(row) {
  const where = [row.step, row.worker].filter(Boolean).join(" at ");
  const why = row.why ? (where ? `${where}: ${row.why}` : row.why) : "";
  return [why, row.rollback_of ? `back to ${row.rollback_of}` : "", row.message, metricsOf(row)].filter(Boolean).join(" · ");
}

function secondsOf(seconds) {
  const known = ["prepare", "fence"].filter((phase) => seconds[phase] !== undefined);
  return known.map((phase) => `${phase} ${took(seconds[phase])}`).join(", ");
}

