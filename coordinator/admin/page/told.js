// Entries of the audit log as sentences.

import { counted, looked, percent, short } from "./words.js";

/** Facts that programs need, and those that the sentences name themselves. */
const QUIET = new Set(["request", "about", "generation", "version", "by", "why", "step", "worker", "member", "task"]);

const workers = (count) => counted(Number(count ?? 0), "worker");

const SAID = {
  candidate: (f) =>
    `generation ${f.generation} begins: ${f.rollback ? `back to the content of ${f.rollback}` : `${workers(f.holders)} to get ready`}`,
  canary: (f) => `generation ${f.generation} answers ${percent(Number(f.share ?? 0))} of the requests that have a key`,
  promoted: (f) =>
    `generation ${f.generation} is promoted: it is to answer ${percent(Number(f.share ?? 1))} of the requests`,
  fencing: (f) => `generation ${f.generation} is ready on ${workers(f.ready)}; fencing begins`,
  committed: (f) => `generation ${f.generation} is active${f.unproven ? ", unproven: nobody held the model" : ""}`,
  rejected: (f) => (f.generation ? `generation ${f.generation} was rejected` : "the proposal was rejected"),
  aborted: (f) => (f.generation ? `generation ${f.generation} was aborted` : "the proposal was aborted"),
  superseded: () => "the proposal that waited was superseded",
  next: () => "a proposal waits behind the candidate",
  pinned: (f) => `pinned at generation ${f.generation}`,
  unpinned: () => "unpinned",
  alarm: (f) => `the active generation ${f.generation} was found bad`,
  healed: (f) => `healed forward to generation ${f.generation} (${f.how ?? "restored"})`,
  epoch: (f) =>
    Number(f.open)
      ? `the fleet begins, in epoch ${f.epoch}`
      : `epoch ${f.epoch} begins: Redis lost ${f.lost === "all" ? "everything" : "a part"}`,
  open: (f) => `the fleet is open in epoch ${f.epoch}`,
  joined: (f) => `${nameOf(f)} joined`,
  left: (f) => `${nameOf(f)} left`,
  evicted: (f) => `${nameOf(f)} was silent for a whole lease and is no member any more`,
  "task-started": (f) => `${f.kind} begins: ${workers(f.awaited)}`,
  task: (f) => `${f.kind} ended: ${f.done} did it, ${f.failed} failed, ${f.silent} did not answer`,
};

const TONES = {
  candidate: "work", canary: "work", fencing: "work", committed: "good", aborted: "warn", superseded: "warn", evicted: "warn",
  rejected: "bad", alarm: "bad", epoch: "bad",
};

const nameOf = (facts) => facts.about?.worker ?? facts.worker ?? `member ${facts.member ?? facts.id ?? "?"}`;

/** Those of which `step` and `worker` say where it went wrong. */
const WHERE = new Set(["rejected", "aborted", "alarm"]);

/** What happened. */
export function sentence({ what, facts }) {
  return looked(SAID, what)?.(facts) ?? what;
}

/** Why, by whom, and what else there is: [text]. */
export function details({ what, facts }) {
  const found = [];
  const at = WHERE.has(what) ? [facts.step, facts.worker].filter(Boolean).join(" at ") : "";
  if (facts.why) found.push(at ? `${at}: ${facts.why}` : facts.why);
  else if (at) found.push(at);
  if (facts.version && what !== "fencing") found.push(short(facts.version));
  if (facts.by) found.push(`by ${facts.by}`);
  if (looked(SAID, what)) return found;
  const others = Object.entries(facts).filter(([name, fact]) => !QUIET.has(name) && fact !== "" && fact !== null);
  return [...found, ...others.map(([name, fact]) => `${name} ${typeof fact === "object" ? JSON.stringify(fact) : fact}`)];
}

export const tone = ({ what, facts }) => (what === "epoch" && Number(facts.open) ? "quiet" : (looked(TONES, what) ?? "quiet"));

/** Whether an entry is of a worker, not of a model. */
export const isOfWorkers = ({ what }) => what === "joined" || what === "left" || what === "evicted";
