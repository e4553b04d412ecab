// Whether every worker answers from what is active. Kept up to date worker by worker: a fleet has thousands of pairs.

import { counted, counting, listed, span } from "./words.js";

/** Seconds beyond a lease until a worker's report of a flip must be here: it goes with its next heartbeat, a third of a lease
    later, and the admin looks every second. */
const SLACK_S = 2;

const CLOSED = "The fleet is closed: answers are marked stale, and nothing can be committed.";
const NO_REDIS = "Redis does not answer: workers go on with what they hold, and mark their answers as stale.";

/** What can be wrong with a worker, the worst first. */
export const KINDS = ["behind", "stale", "cannot", "silent", "missing", "pending"];

const TONES = { behind: "bad", stale: "bad", cannot: "bad", silent: "warn", missing: "work", pending: "work" };

export class Agreement {
  /** `fleet`: models, workers, facts and now(). */
  constructor(fleet) {
    this.fleet = fleet;
    this.troubles = new Map(); // member → [{kind, model, text}], the worst first
    this.members = Object.fromEntries(KINDS.map((kind) => [kind, new Set()]));
    this.holders = new Map(); // model → set of members
    this.holds = new Map(); // member → models that it is in `holders` of
  }

  modelsChanged(names) {
    const members = new Set(names.flatMap((name) => [...(this.holders.get(name) ?? [])]));
    for (const member of members) this.judge(member);
  }

  workerChanged(worker) {
    const { member } = worker;
    this.unlist(member);
    this.holds.set(member, worker.models);
    for (const model of worker.models) {
      if (!this.holders.has(model)) this.holders.set(model, new Set());
      this.holders.get(model).add(member);
    }
    this.judge(member);
  }

  left(member) {
    this.unlist(member);
    this.holds.delete(member);
    this.set(member, []);
  }

  /** Time passes: who was expected to report may be late now. Returns whether anything may be said differently. */
  tick() {
    const waiting = [...this.members.pending, ...this.members.silent];
    for (const member of waiting) this.judge(member);
    return waiting.length > 0;
  }

  count(kind) {
    return this.members[kind].size;
  }

  of(member) {
    return this.troubles.get(member) ?? [];
  }

  unlist(member) {
    for (const model of this.holds.get(member) ?? []) this.holders.get(model)?.delete(member);
  }

  set(member, troubles) {
    const before = this.worst(member);
    troubles.sort((a, b) => KINDS.indexOf(a.kind) - KINDS.indexOf(b.kind));
    if (troubles.length) this.troubles.set(member, troubles);
    else this.troubles.delete(member);
    const worst = this.worst(member);
    if (before) this.members[before].delete(member);
    if (worst) this.members[worst].add(member);
    this.fleet.changed?.workers.add(member);
  }

  worst(member) {
    return this.troubles.get(member)?.[0].kind;
  }

  judge(member) {
    const worker = this.fleet.workers.get(member);
    if (!worker) return;
    const found = [];
    for (const name of this.holds.get(member)) {
      const model = this.fleet.models.get(name);
      const trouble = model && this.ofModel(worker, model);
      if (trouble) found.push(trouble);
    }
    if (worker.silent_since) {
      found.push({ kind: "silent", model: "", text: `no heartbeat for ${span(this.fleet.now() - worker.silent_since)}` });
    }
    if (found.length || this.troubles.has(member)) this.set(member, found);
  }

  /** What is wrong with a model at a worker, or null. */
  ofModel(worker, model) {
    const held = worker.generations[model.model];
    if (model.generation === null) return null;
    if (held === undefined) return unloaded(worker, model);
    const about = worker.about?.models?.[model.model];
    const isOther = about?.version && about.version !== model.version;
    if (held !== model.generation || isOther) return this.notYet(model, held, isOther && held === model.generation);
    if (about?.stale) return { kind: "stale", model: model.model, text: `answers of ${model.model} are marked stale` };
    return null;
  }

  notYet(model, held, isOther) {
    const lease = this.fleet.facts?.lease_s ?? 3;
    const passed = this.fleet.now() - model.committed_at;
    const what = isOther ? `another content of generation ${held}` : `generation ${held}`;
    if (held > model.generation || passed > lease + SLACK_S) {
      const since = `${model.generation} is active for ${span(passed)}`;
      return { kind: "behind", model: model.model, text: `reports ${what} of ${model.model}; ${since}` };
    }
    return { kind: "pending", model: model.model, text: `has not reported generation ${model.generation} of ${model.model} yet` };
  }

  /** The one sentence: {tone, text}. */
  verdict() {
    const { facts, workers, models } = this.fleet;
    if (!facts) return { tone: "quiet", text: "Looking at the fleet" };
    if (facts.stale) return { tone: "bad", text: NO_REDIS };
    if (!facts.open) return { tone: "bad", text: CLOSED };
    if (!workers.size) return { tone: "warn", text: "No worker is a member of this fleet." };
    if (!models.size) return { tone: "quiet", text: `${counting(workers.size, "worker", "is", "are")} there. Nothing is published yet.` };
    const kind = KINDS.find((one) => this.count(one));
    return kind ? { tone: TONES[kind], text: this.told(kind) } : { tone: "good", text: agreed(workers.size) };
  }

  told(kind) {
    const all = this.fleet.workers.size;
    const some = this.count(kind) + (kind === "behind" ? this.count("stale") : 0);
    const one = some === 1;
    const of = `${some} of ${counted(all, "worker")}`;
    const rest = some < all ? "; the others agree." : ".";
    return {
      behind: `${of} ${one ? "does" : "do"} not answer from the active generations${rest}`,
      stale: `${of} ${one ? "marks its" : "mark their"} answers as stale${rest}`,
      cannot: `${of} cannot load what is active${rest}`,
      silent: `${of} ${one ? "shows" : "show"} no sign of life${rest}`,
      missing: `${of} ${one ? "has" : "have"} not loaded everything yet${rest}`,
      pending: `${of} ${one ? "has" : "have"} yet to say that ${one ? "it has" : "they have"} changed${rest}`,
    }[kind];
  }

  /** Up to `most` workers that are not as they should be, the worst first: [{member, worker, tone, text}], and how many more. */
  attention(most = 5) {
    const members = KINDS.flatMap((kind) => [...this.members[kind]].map((member) => [kind, member]));
    const rows = members.slice(0, most).map(([kind, member]) => ({
      member,
      worker: this.fleet.workers.get(member)?.worker ?? member,
      tone: TONES[kind],
      text: listed(this.of(member).map((trouble) => trouble.text)),
    }));
    return { rows, more: Math.max(0, members.length - most) };
  }

  tone(member) {
    return TONES[this.worst(member)] ?? "good";
  }
}

/** Nothing of it is loaded: because it cannot be, if the worker's last error is about the active generation. */
function unloaded({ last_error: error }, { model, generation }) {
  const isAboutIt = typeof error === "string" && error.startsWith(`${model} generation ${generation}: `);
  return isAboutIt ? { kind: "cannot", model, text: `cannot load ${error}` } : { kind: "missing", model, text: `${model} is not loaded yet` };
}

const agreed = (count) =>
  count === 1
    ? "The one worker answers from the active generations."
    : `All ${counted(count, "worker")} answer from the same generations.`;
