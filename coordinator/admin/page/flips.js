// Flips, put together from entries of the audit log: when each was prepared, fenced and decided, and why. No element is touched here.

/** Flips that are kept. */
const KEPT = 200;

const ENDS = new Set(["committed", "rejected", "aborted"]);

export class Flips {
  constructor() {
    this.byKey = new Map(); // "model generation" → flip, in the order in which they began
    this.active = new Map(); // model → the last generation that the log says was committed
    this.last = new Map(); // model → its last flip that has ended
  }

  /** The newest first; of one model, or of all. */
  newest(model = null) {
    const found = [...this.byKey.values()].reverse();
    return model === null ? found : found.filter((flip) => flip.model === model);
  }

  /** An entry of the log, the oldest first. */
  hear({ what, model, at, facts }) {
    const generation = Number(facts.generation);
    if (what === "candidate") this.begin(model, generation, at, facts);
    const flip = this.byKey.get(`${model} ${generation}`);
    if (!flip) {
      if (what === "committed") this.active.set(model, generation);
      return;
    }
    if (what === "canary" && !flip.canaryAt) flip.canaryAt = at;
    else if (what === "fencing") Object.assign(flip, { fencingAt: at, ready: facts.ready });
    else if (ENDS.has(what)) this.end(flip, what, at, facts);
  }

  begin(model, generation, at, facts) {
    const from = this.active.get(model) ?? null;
    const { by, version, holders, rollback } = facts;
    this.byKey.set(`${model} ${generation}`, {
      key: `${model} ${generation}`, model, generation, from, by, version, holders, at,
      rollback: rollback ? Number(rollback) : null,
      canaryAt: null, fencingAt: null, endedAt: null, outcome: null, why: "", step: "", worker: "", unproven: false,
    });
    if (this.byKey.size > KEPT) this.byKey.delete(this.byKey.keys().next().value);
  }

  end(flip, outcome, at, { why, step, worker, unproven }) {
    Object.assign(flip, { outcome, endedAt: at, why: why ?? "", step: step ?? "", worker: worker ?? "", unproven: Boolean(unproven) });
    if (outcome === "committed") this.active.set(flip.model, flip.generation);
    this.last.set(flip.model, flip);
  }
}

/** The phases that a flip has had so far: [{name, seconds}]. */
export function spansOf(flip, now) {
  const end = flip.endedAt ?? now;
  const starts = [["prepare", flip.at], ["canary", flip.canaryAt], ["fence", flip.fencingAt]].filter(([, at]) => at !== null);
  return starts.map(([name, at], index) => ({ name, seconds: Math.max(0, (starts[index + 1]?.[1] ?? end) - at) }));
}
