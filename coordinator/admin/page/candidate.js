// A candidate: how far each worker is with it, and, of a canary, what both groups did.

import { el, fill, offerMore, put, state, sync } from "./dom.js";
import { bar, leftOf } from "./models.js";
import { listed, looked, number, percent, short, took } from "./words.js";

/** Workers that are shown at once: who is not ready comes first. */
const SHOWN = 30;

const STATES = {
  awaited: ["work", "at work"],
  late: ["work", "at work, came late"],
  ready: ["good", "ready"],
  fenced: ["good", "fenced"],
  failed: ["bad", "failed"],
  bad: ["bad", "found it bad"],
};
const ORDER = ["bad", "failed", "awaited", "late", "ready", "fenced"];
/** Columns, and the steps of a load that each is made of. */
const COLUMNS = [["Verified", ["verify"]], ["Loaded", ["build", "load", "check", "warm", "warm up"]], ["Golden", ["golden"]]];

export class CandidateView {
  constructor(fleet, model) {
    this.fleet = fleet;
    this.model = model;
    this.rows = new Map();
    this.isOpen = false;
    this.title = el("h3", {});
    this.line = el("p", {});
    this.meter = el("div", { class: "meter" });
    this.canary = el("div", { class: "canary-part" });
    this.body = el("tbody", {});
    this.more = el("button", { type: "button", class: "more", hidden: true, onclick: () => this.toggle() });
    const heads = [["Worker"], ["State"], ...COLUMNS.map(([name]) => [name, "number"]), ["Why", "why"]];
    this.table = el(
      "div",
      { class: "scroll", role: "region", tabindex: "0", "aria-label": "Progress worker by worker" },
      el("table", { class: "progress" }, el("caption", { class: "unseen" }, "How far each worker is with the candidate"),
        el("thead", {}, el("tr", {}, ...heads.map(([name, kind]) => el("th", { scope: "col", class: kind }, name)))), this.body),
    );
    this.node = el("section", { class: "panel", hidden: true }, this.title, this.line, this.meter, this.canary, this.table, this.more);
  }

  toggle() {
    this.isOpen = !this.isOpen;
    this.draw();
  }

  draw() {
    const model = this.fleet.models.get(this.model);
    const candidate = model?.candidate;
    this.node.hidden = !candidate;
    if (!candidate) return;
    put(this.title, `Candidate: generation ${candidate.generation}`);
    put(this.line, this.told(model, candidate));
    const all = candidate.ready + candidate.awaited + candidate.failed + candidate.fenced;
    const done = model.phase === "fencing" ? candidate.fenced : candidate.ready;
    this.meter.hidden = model.phase === "canary";
    fill(this.meter, [done, all], () => bar(all ? done / all : 0));
    const { share, steps, policy, figures } = candidate;
    this.canary.hidden = share === null || share === undefined;
    if (!this.canary.hidden) fill(this.canary, [share, steps, policy, figures], () => canaryOf(candidate));
    this.drawWorkers(candidate);
  }

  told(model, c) {
    const all = c.ready + c.awaited + c.failed + c.fenced;
    const phases = {
      preparing: `${number(c.ready)} of ${number(all)} workers are ready${c.failed ? `, ${number(c.failed)} failed` : ""}`,
      canary: `It answers ${percent(c.share ?? 0)} of the requests that have a key`,
      fencing: `${number(c.fenced)} of ${number(all)} workers are fenced`,
    };
    const how = looked(phases, model.phase) ?? model.phase;
    return `${how} · version ${short(c.version)} · by ${c.by} · ${leftOf(c, this.fleet.now())}`;
  }

  drawWorkers(candidate) {
    const known = this.fleet.candidates.get(this.model);
    const found = known?.generation === candidate.generation ? [...known.workers.entries()] : [];
    found.sort(([, a], [, b]) => ORDER.indexOf(a.state) - ORDER.indexOf(b.state) || (a.worker < b.worker ? -1 : 1));
    const shown = this.isOpen ? found : found.slice(0, SHOWN);
    const rows = new Map(found);
    sync(this.body, shown.map(([key]) => key), this.rows, () => this.make());
    for (const [key] of shown) this.update(this.rows.get(key), rows.get(key));
    this.table.hidden = !found.length;
    offerMore(this.more, found.length > shown.length, found.length, "workers", this.isOpen && found.length > SHOWN);
  }

  make() {
    const cells = [el("th", { scope: "row" }), ...["doing", "number", "number", "number", "why"].map((name) => el("td", { class: name }))];
    return Object.assign(el("tr", {}, ...cells), { parts: cells });
  }

  update(row, worker) {
    const [name, at, verified, loaded, golden, why] = row.parts;
    const [tone, word] = looked(STATES, worker.state) ?? ["quiet", worker.state];
    const more = moreOf(worker);
    put(name, worker.worker);
    fill(at, [worker.state, more], () => state(tone, word + more));
    [verified, loaded, golden].forEach((cell, index) => put(cell, secondsOf(worker, COLUMNS[index][1])));
    put(why, [worker.state === "failed" || worker.state === "bad" ? worker.step : "", worker.why].filter(Boolean).join(": "));
  }
}

/** Beside its state: the step that it is at, or how long it took. */
function moreOf(worker) {
  if (worker.state === "ready") return ` after ${secondsOf(worker, Object.keys(worker.seconds))}`;
  return worker.state === "awaited" && worker.step ? `: ${worker.step}` : "";
}

/** Seconds of the steps of a column, together; a dash where none is known. */
function secondsOf(worker, steps) {
  const known = steps.map((step) => worker.seconds?.[step]).filter((seconds) => typeof seconds === "number");
  return known.length ? took(known.reduce((sum, seconds) => sum + seconds, 0)) : "–";
}

// --- a canary -------------------------------------------------------------------------------------------------

function canaryOf({ share, steps, policy, figures }) {
  const all = [...(steps ?? []), 1];
  const path = el("ol", { class: "steps", "aria-label": "Steps of the canary" }, ...all.map((step) => {
    if (step === share) return el("li", { class: "now", "aria-current": "step" }, `${percent(step)} now`);
    return el("li", { class: step < share ? "done" : null }, percent(step));
  }));
  return [path, el("p", { class: "quiet" }, policyText(policy)), figures ? figuresTable(figures) : null];
}

/** What a policy allows, in words. */
export function limitsOf(policy) {
  const limits = [
    policy.errors === null ? "" : `at most ${percent(policy.errors)} more errors`,
    policy.latency === null ? "" : `a 95th percentile at most ${policy.latency} times as long`,
    policy.score === null ? "" : `a mean score at most ${policy.score} lower`,
  ].filter(Boolean);
  return listed(limits);
}

/** Who decides, and by what. */
function policyText(policy) {
  if (!policy) return "No policy: somebody promotes or aborts it.";
  const enough = `${number(policy.requests)} requests of each group and ${took(policy.seconds)}`;
  return `Goes on by itself after ${enough} with ${limitsOf(policy)}; else it is aborted.`;
}

const GROUPS = [["active", "Active"], ["candidate", "Candidate"]];

/** What both groups did: requests, errors, times, score. */
export function figuresTable(figures) {
  const heads = ["Group", "Requests", "Errors", "Mean", "95 % below", "Score"];
  const rows = GROUPS.map(([key, name]) => {
    const group = figures[key] ?? {};
    const errors = group.requests ? `${number(group.errors)} (${percent(group.errors / group.requests)})` : "–";
    const score = group.score === null || group.score === undefined ? "–" : Number(group.score.toPrecision(4)).toString();
    const cells = [number(group.requests ?? 0), errors, took(group.mean_s), took(group.p95_s), score];
    return el("tr", {}, el("th", { scope: "row" }, name), ...cells.map((text) => el("td", { class: "number" }, text)));
  });
  return el("table", { class: "figures" }, el("caption", { class: "unseen" }, "What requests of both groups came to"),
    el("thead", {}, el("tr", {}, ...heads.map((name, index) => el("th", { scope: "col", class: index ? "number" : null }, name)))),
    el("tbody", {}, ...rows));
}
