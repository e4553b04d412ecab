// How ages, durations, sizes and counts are said. Pure: the present moment is handed in.

const UNITS = [["day", 86400], ["h", 3600], ["min", 60], ["s", 1]];

/** How long ago `at` was (both unix seconds), rounded down: `3 min ago`. */
export function age(at, now) {
  if (!at) return "–";
  return now - at < 2 ? "just now" : `${span(now - at)} ago`;
}

/** A length of time in its largest unit: `3 min`. */
export function span(seconds) {
  const [unit, length] = UNITS.find(([, length]) => seconds >= length) ?? UNITS.at(-1);
  const count = Math.max(0, Math.floor(seconds / length));
  return `${count} ${unit}${unit === "day" && count > 1 ? "s" : ""}`;
}

/** A duration: `4 ms`, `1.2 s`, `2 min 5 s`. */
export function took(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.0005) return seconds > 0 ? "<1 ms" : "0 ms";
  if (seconds < 0.9995) return `${Math.max(1, Math.round(seconds * 1000))} ms`;
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

/** Bytes, by thousands: `512 B`, `1.2 MB`. */
export function size(bytes) {
  let count = bytes;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (count < 999.95) return unit === "B" ? `${Math.round(count)} B` : `${count.toFixed(1)} ${unit}`;
    count /= 1000;
  }
  return `${count.toFixed(1)} TB`;
}

const whole = new Intl.NumberFormat("en");

/** A count with thousands apart: `12,000`. */
export const number = (count) => whole.format(count);

/** `1 worker`, `1,000 workers`. */
export const counted = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

/** `1 worker has`, `3 workers have`. */
export const counting = (count, noun, one, many) => `${counted(count, noun)} ${count === 1 ? one : many}`;

/** A share of 0 to 1: `5 %`, `0.4 %`. */
export const percent = (share) => `${Number((share * 100).toFixed(share < 0.1 ? 1 : 0))} %`;

/** Events a second: `0`, `0.4`, `12`. */
export const rate = (each) => (each < 0.05 ? "0" : each < 10 ? each.toFixed(1) : number(Math.round(each)));

/** A version as people see it. */
export const short = (version) => (version ? String(version).slice(0, 12) : "–");

/** What a table of ours has under a word that came from elsewhere. */
export const looked = (table, word) => (Object.hasOwn(table, word) ? table[word] : undefined);

/** A moment on the clock of this machine; with its day, if that is not today. */
export function moment(at, now) {
  const date = new Date(at * 1000);
  const time = date.toLocaleTimeString("en-GB");
  const day = date.toLocaleDateString("sv");
  return day === new Date(now * 1000).toLocaleDateString("sv") ? time : `${day} ${time}`;
}

/** Texts with commas and `and`: `a, b and c`. */
export function listed(texts, most = 3) {
  if (texts.length > most) return `${texts.slice(0, most).join(", ")} and ${texts.length - most} more`;
  return texts.length > 1 ? `${texts.slice(0, -1).join(", ")} and ${texts.at(-1)}` : (texts[0] ?? "");
}
