// What the page knows of the fleet: filled by the stream, read by every part of the page. No element is touched here.

import { Agreement } from "./agreement.js";
import { Flips } from "./flips.js";

/** Entries of the log that are kept. */
const LOG_LENGTH = 500;

export class Fleet {
  constructor() {
    this.role = "viewer";
    this.who = "";
    this.facts = null; // FleetStatus without models
    this.models = new Map(); // name → ModelStatus
    this.workers = new Map(); // member → WorkerStatus
    this.hosts = new Map(); // host → set of members
    this.rates = new Map(); // member → {requests, errors} a second, and the figures that they were counted from
    this.candidates = new Map(); // model → {generation, workers: worker → its state}
    this.events = []; // the newest first
    this.flips = new Flips();
    this.agreement = new Agreement(this);
    this.changed = new Changes();
    this.clock = null; // {at: unix s of the admin, since: performance.now()}
    this.isWhole = { models: false, workers: false };
  }

  /** Unix seconds on the admin's clock: that of this machine may be wrong. */
  now() {
    if (!this.clock) return Date.now() / 1000;
    return this.clock.at + (performance.now() - this.clock.since) / 1000;
  }

  /** A connection begins: the first events of it hold everything. */
  opened() {
    this.isWhole = { models: false, workers: false };
  }

  /** An event of the stream. */
  tell(event, data) {
    if (event === "fleet") this.fleet(data);
    else if (event === "models") this.updateModels(data);
    else if (event === "workers") this.updateWorkers(data);
    else if (event === "candidate") this.candidate(data);
    else if (event === "log") this.log([data]);
  }

  fleet(facts) {
    this.facts = facts;
    if (facts.as_of) this.clock = { at: facts.as_of, since: performance.now() };
    this.changed.fleet = true;
  }

  updateModels({ changed, gone }) {
    const names = new Set(changed.map((model) => model.model));
    const left = this.isWhole.models ? gone : [...this.models.keys()].filter((name) => !names.has(name));
    this.isWhole.models = true;
    for (const name of left) {
      this.models.delete(name);
      this.candidates.delete(name);
      this.changed.models.add(name);
    }
    for (const model of changed) {
      this.models.set(model.model, model);
      this.changed.models.add(model.model);
      const kept = this.candidates.get(model.model);
      if (kept && kept.generation !== model.candidate?.generation) this.candidates.delete(model.model);
    }
    this.agreement.modelsChanged([...names, ...left]);
  }

  updateWorkers({ changed, gone }) {
    const members = new Set(changed.map((worker) => worker.member));
    const left = this.isWhole.workers ? gone : [...this.workers.keys()].filter((member) => !members.has(member));
    this.isWhole.workers = true;
    for (const member of left) this.workerLeft(member);
    for (const worker of changed) this.workerChanged(worker);
  }

  workerLeft(member) {
    const host = this.workers.get(member)?.host;
    this.hosts.get(host)?.delete(member);
    if (this.hosts.get(host)?.size === 0) this.hosts.delete(host);
    this.workers.delete(member);
    this.rates.delete(member);
    this.agreement.left(member);
    this.changed.workers.add(member);
  }

  workerChanged(worker) {
    const { member, host } = worker;
    const before = this.workers.get(member);
    if (before && before.host !== host) this.workerLeft(member);
    this.workers.set(member, worker);
    if (!this.hosts.has(host)) this.hosts.set(host, new Set());
    this.hosts.get(host).add(member);
    this.count(member, worker.about?.stats);
    this.agreement.workerChanged(worker);
    this.changed.workers.add(member);
  }

  /** Requests and errors a second between the last two reports, by the worker's own clock. */
  count(member, stats) {
    if (typeof stats?.uptime_s !== "number") return;
    const now = { at: stats.uptime_s, uses: (stats.hits ?? 0) + (stats.misses ?? 0), errors: stats.errors ?? 0 };
    const before = this.rates.get(member)?.counted;
    if (!before || now.at < before.at || now.uses < before.uses) {
      this.rates.set(member, { counted: now, requests: null, errors: null });
    } else if (now.at > before.at) {
      const seconds = now.at - before.at;
      const each = (name) => Math.max(0, now[name] - before[name]) / seconds;
      this.rates.set(member, { counted: now, requests: each("uses"), errors: each("errors") });
    }
  }

  candidate({ model, generation, workers }) {
    const kept = this.candidates.get(model);
    const rows = kept?.generation === generation ? kept.workers : new Map();
    for (const row of workers) rows.set(row.member || row.worker, row);
    this.candidates.set(model, { generation, workers: rows });
    this.changed.models.add(model);
  }

  /** Entries of the audit log, the oldest first; one that is known already changes nothing. */
  log(entries) {
    for (const entry of entries) {
      if (this.events.length && !isLater(entry.id, this.events[0].id)) continue;
      this.events.unshift(entry);
      this.flips.hear(entry);
      if (entry.model) this.changed.models.add(entry.model);
      this.changed.log = true;
    }
    this.events.length = Math.min(this.events.length, LOG_LENGTH);
  }
}

/** Ids of a stream are two numbers: milliseconds, and one within them. */
function isLater(id, other) {
  const [at, n] = id.split("-").map(Number);
  const [otherAt, otherN] = other.split("-").map(Number);
  return at > otherAt || (at === otherAt && n > otherN);
}

/** What has changed since the page was last drawn. */
class Changes {
  constructor() {
    this.clear();
  }

  clear() {
    this.fleet = false;
    this.log = false;
    this.models = new Set();
    this.workers = new Set();
  }
}
