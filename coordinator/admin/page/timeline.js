// Flips as spans of time, the newest first, and whether two versions were ever answered from at once.

import { byId, el, fill, offerMore, put, state, sync } from "./dom.js";
import { spansOf } from "./flips.js";
import { age, counting, span, took } from "./words.js";

/** Flips that are shown at once. */
const SHOWN = 8;
/** How much of the track a canary takes, percent: it may last for hours, beside which nothing else would be seen. */
const CANARY_WIDTH = 12;

const TONES = { committed: "good", rejected: "bad", aborted: "warn" };
const DONE = { prepare: "prepared", canary: "canary", fence: "fenced" };
const NOW = { prepare: "preparing", canary: "canary", fence: "fencing" };

/** A list of flips; `model`: of one only. */
export class Timeline {
  constructor(fleet, { list, none, more, model = null }) {
    Object.assign(this, { fleet, list, none, more, model });
    this.rows = new Map();
    this.isOpen = false;
    more.addEventListener("click", () => {
      this.isOpen = !this.isOpen;
      this.draw();
    });
  }

  draw() {
    const flips = this.fleet.flips.newest(this.model);
    const shown = this.isOpen ? flips : flips.slice(0, SHOWN);
    const now = this.fleet.now();
    const scale = Math.max(0.001, ...shown.map((flip) => lengthOf(flip, now)));
    sync(this.list, shown.map((flip) => flip.key), this.rows, () => this.make());
    for (const flip of shown) this.update(this.rows.get(flip.key), flip, scale, now);
    this.none.hidden = flips.length > 0;
    offerMore(this.more, flips.length > shown.length, flips.length, "flips", this.isOpen && flips.length > SHOWN);
  }

  make() {
    const parts = {
      name: el("span", {}),
      outcome: el("span", {}),
      time: el("time", { class: "quiet" }),
      track: el("div", { class: "track", "aria-hidden": "true" }),
      said: el("p", { class: "quiet" }),
      why: el("p", { class: "why" }),
    };
    const what = el("p", { class: "what" }, parts.name, parts.outcome, parts.time);
    return Object.assign(el("li", { class: "flip" }, what, parts.track, parts.said, parts.why), { parts });
  }

  update(row, flip, scale, now) {
    const { parts } = row;
    const spans = spansOf(flip, now);
    const mixed = this.mixedOf(flip);
    const from = this.fromOf(flip);
    fill(parts.name, [flip.key, from], () => this.nameOf(flip, from));
    fill(parts.outcome, [flip.outcome, spans.length], () => outcomeOf(flip, spans));
    parts.time.at = flip.endedAt ?? flip.at;
    put(parts.time, age(parts.time.at, now));
    fill(parts.track, [spans.map((one) => one.seconds.toFixed(3)), scale.toFixed(3), mixed], () => trackOf(spans, scale, flip, mixed));
    put(parts.said, saidOf(flip, spans, mixed));
    fill(parts.why, [flip.why], () => whyOf(flip));
    parts.why.hidden = !flip.why;
  }

  /** The generation that was active meanwhile, if the log reaches back so far; of one that came to nothing, what still is. */
  fromOf(flip) {
    if (flip.from !== null || flip.outcome === "committed") return flip.from;
    const { generation } = this.fleet.models.get(flip.model) ?? {};
    return generation < flip.generation ? generation : null;
  }

  nameOf(flip, from) {
    const to = flip.rollback ? `${flip.generation} (back to ${flip.rollback})` : String(flip.generation);
    const change = from === null ? `generation ${to}` : `${from} → ${to}`;
    const link = this.model === null ? el("a", { href: `#/models/${flip.model}` }, flip.model) : null;
    return [link, ` ${change} `];
  }

  /** How many workers report another generation than this one, which is active. */
  mixedOf(flip) {
    if (flip.outcome !== "committed" || this.fleet.models.get(flip.model)?.generation !== flip.generation) return 0;
    const { agreement } = this.fleet;
    return [...agreement.members.behind].filter((member) => agreement.of(member).some((one) => one.model === flip.model)).length;
  }
}

/** Seconds that its track shows to scale. */
const lengthOf = (flip, now) =>
  spansOf(flip, now).reduce((sum, { name, seconds }) => sum + (name === "canary" ? 0 : seconds), 0);

function outcomeOf(flip, spans) {
  if (flip.outcome) return [state(TONES[flip.outcome], flip.outcome), " "];
  return [state("work", NOW[spans.at(-1).name]), " "];
}

function trackOf(spans, scale, flip, mixed) {
  const room = spans.some((one) => one.name === "canary") ? 100 - CANARY_WIDTH : 100;
  const parts = spans.map(({ name, seconds }) => {
    const part = el("span", { class: `span ${name}` });
    part.style.width = `${name === "canary" ? CANARY_WIDTH : Math.max(0.2, (room * 0.94 * seconds) / scale)}%`;
    return part;
  });
  if (flip.outcome) parts.push(el("span", { class: `end ${TONES[flip.outcome]}` }));
  if (mixed) parts.push(el("span", { class: "span mixed" }));
  return parts;
}

function saidOf(flip, spans, mixed) {
  const said = spans.map(({ name, seconds }, index) => {
    const isNow = !flip.outcome && index === spans.length - 1;
    return isNow ? `${NOW[name]} for ${span(seconds)}` : `${DONE[name]} ${took(seconds)}`;
  });
  if (flip.outcome === "committed") said.push(mixedText(flip, mixed));
  return said.join(" · ");
}

function mixedText(flip, mixed) {
  if (mixed) return `mixed versions: ${counting(mixed, "worker", "reports", "report")} another generation`;
  if (flip.unproven) return "mixed versions: none, nobody held the model";
  return "mixed versions: none";
}

function whyOf(flip) {
  const where = [flip.step, flip.worker].filter(Boolean).join(" at ");
  return [where ? `${where}: ${flip.why}` : flip.why];
}

/** The timeline of the overview. */
export const overview = (fleet) =>
  new Timeline(fleet, { list: byId("flip-rows"), none: byId("no-flips"), more: byId("more-flips") });

