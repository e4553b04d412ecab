// The page: log in, follow the fleet, draw what has changed.

import { Acts } from "./acts.js";
import { get, NoAnswer, token } from "./api.js";
import { byId, el, fill, mark, put, state } from "./dom.js";
import { Fleet } from "./fleet.js";
import { Live } from "./live.js";
import { Log } from "./log.js";
import { ModelView } from "./model.js";
import { Models } from "./models.js";
import { overview } from "./timeline.js";
import { sentence } from "./told.js";
import { age, counted, moment, number } from "./words.js";
import { Workers } from "./workers.js";

/** Entries of the log that are read at first. */
const FIRST_ENTRIES = 300;
/** Milliseconds between two redraws of a page that nobody sees: its title is seen all the same. */
const UNSEEN_MS = 1000;
/** Milliseconds for which what is spoken is gathered: a flip is one sentence, not four. */
const SPOKEN_MS = 1500;
/** Milliseconds for which a notice of success stays. */
const NOTICE_MS = 15000;
/** What of the log is read out. */
const SPOKEN = new Set(["committed", "rejected", "aborted", "alarm", "epoch"]);

const fleet = new Fleet();
const acts = new Acts(fleet, notify);
const parts = { models: new Models(fleet, acts), workers: new Workers(fleet), flips: overview(fleet), log: new Log(fleet) };
let live = null;
let detail = null;
let drawing = false;
let drawAll = true;

// --- logging in -----------------------------------------------------------------------------------------------------

function takeTokenOfLink() {
  const found = /^#token=(.+)$/.exec(location.hash);
  if (!found) return;
  token.set(found[1]);
  history.replaceState(null, "", location.pathname + location.search);
}

function askForToken(why = "") {
  document.title = "Log in · genlock";
  byId("bar").hidden = byId("app").hidden = true;
  byId("lost").hidden = true;
  byId("login").hidden = false;
  byId("token").value = "";
  put(byId("login-error"), why);
  byId("token").focus();
}

function whyNot(error) {
  if (error instanceof NoAnswer) return "The admin does not answer. Is it running?";
  if (error.status === 401) return "This token is not known here.";
  if (error.status === 429) return `Too many log-ins failed. Try again ${error.retry ? `in ${error.retry} s` : "in a while"}.`;
  return `${error.message}.`;
}

async function logIn() {
  try {
    const who = await get("whoami");
    Object.assign(fleet, { role: who.role, who: who.name });
    const { events } = await get(`events?limit=${FIRST_ENTRIES}`);
    fleet.log(events);
    open();
  } catch (error) {
    if (error.status === 401) token.forget();
    askForToken(whyNot(error));
  }
}

function logOut() {
  live?.stop();
  token.forget();
  location.hash = "";
  location.reload();
}

// --- the connection -------------------------------------------------------------------------------------------------

function open() {
  acts.may = fleet.role === "operator";
  document.body.classList.toggle("operates", acts.may);
  put(byId("who"), fleet.who && fleet.who !== fleet.role ? `${fleet.who} (${fleet.role})` : fleet.role);
  byId("login").hidden = true;
  byId("bar").hidden = byId("app").hidden = false;
  live = new Live({
    tell: (event, data) => hear(event, data),
    opened: () => fleet.opened(),
    changed: () => draw(true),
    refused: () => {
      token.forget();
      askForToken("The token is not known any more. Log in again.");
    },
  });
  live.lastId = fleet.events[0]?.id ?? "";
  live.run();
  route();
}

function hear(event, data) {
  fleet.tell(event, data);
  if (event === "log" && SPOKEN.has(data.what)) say(`${data.model} ${sentence(data)}`);
  draw();
}

// --- drawing --------------------------------------------------------------------------------------------------------

/** Draws what has changed before the next frame. */
function draw(all = false) {
  drawAll ||= all;
  if (drawing) return;
  drawing = true;
  if (document.hidden) setTimeout(drawNow, UNSEEN_MS);
  else requestAnimationFrame(drawNow);
}

function drawNow() {
  drawing = false;
  const { changed } = fleet;
  const all = drawAll;
  drawAll = false;
  drawConnection();
  drawVerdict();
  if (detail) detail.draw(all);
  else drawOverview(all, changed);
  changed.clear();
}

function drawOverview(all, changed) {
  const flipsMoved = changed.log || changed.models.size || changed.workers.size;
  if (all || changed.models.size || changed.log) parts.models.draw(all);
  if (all || changed.workers.size) parts.workers.draw(all);
  if (all || flipsMoved) parts.flips.draw();
  if (all || changed.log) parts.log.draw();
}

function drawConnection() {
  const isLost = live !== null && !live.isLive && fleet.facts !== null;
  const link = byId("link");
  const [tone, word] = live?.isLive ? ["good", "live"] : live?.why ? ["bad", "lost"] : ["quiet", "connecting"];
  fill(link, word, () => [mark(tone), el("span", {}, word)]);
  document.body.classList.toggle("old", isLost);
  byId("lost").hidden = live === null || live.isLive || !live.why;
  if (!byId("lost").hidden) put(byId("lost-text"), lostText(isLost));
}

function lostText(isLost) {
  const old = isLost ? ` What you see is of ${moment(lastHeard(), fleet.now())}.` : "";
  return `No connection: ${live.why}.${old} The page tries again by itself.`;
}

/** When the last event came, unix seconds. */
let heardAt = 0;
const lastHeard = () => heardAt || fleet.now();

function drawVerdict() {
  const { tone, text } = fleet.agreement.verdict();
  const isOld = document.body.classList.contains("old");
  const told = isOld ? `${text} That was at ${moment(lastHeard(), fleet.now())}.` : text;
  const verdict = byId("verdict");
  if (byId("sentence").textContent !== told && fleet.facts) say("");
  fill(byId("sentence"), [isOld ? "quiet" : tone, told], () => [mark(isOld ? "quiet" : tone), told]);
  verdict.className = `verdict ${isOld ? "quiet" : tone}`;
  document.title = `${isOld ? "no connection" : text} · ${fleet.facts?.name ?? ""} · genlock`;
  if (fleet.facts) drawFacts(fleet.facts);
  drawAttention();
}

function drawFacts(facts) {
  put(byId("fleet-name"), facts.name);
  const told = [
    `${counted(fleet.workers.size, "worker")} on ${counted(fleet.hosts.size, "host")}`,
    counted(fleet.models.size, "model"),
    `lease ${facts.lease_s} s`,
    `epoch ${facts.epoch}`,
    `Redis ${facts.redis}`,
    `store ${facts.store}`,
  ];
  const inWork = [...fleet.models.values()].filter((model) => model.candidate).length;
  if (inWork) told.unshift(`${counted(inWork, "candidate")} in work`);
  if (facts.why) told.unshift(facts.why);
  put(byId("facts"), told.join(" · "));
}

function drawAttention() {
  const { rows, more } = fleet.agreement.attention();
  const list = byId("attention");
  list.hidden = !rows.length;
  fill(list, [rows, more], () => [
    ...rows.map(({ member, worker, tone, text }) =>
      el("li", {}, state(tone, el("button", { type: "button", class: "link", onclick: () => showWorker(member) }, worker), ` ${text}`))),
    more ? el("li", { class: "quiet" }, `and ${number(more)} more`) : null,
  ].filter(Boolean));
}

function showWorker(member) {
  if (detail) {
    location.hash = "#/";
    route();
  }
  parts.workers.show(member);
}

/** Once a second: ages, what is late, what goes on. */
function tick() {
  if (document.hidden || byId("app").hidden) return;
  const now = fleet.now();
  if (live?.isLive) heardAt = now;
  for (const time of document.querySelectorAll("time")) if (time.at) put(time, age(time.at, now));
  if (!live?.isLive) return;
  const isLate = fleet.agreement.tick();
  const inWork = [...fleet.models.values()].filter((model) => model.phase !== "idle");
  for (const model of inWork) fleet.changed.models.add(model.model);
  if (isLate || inWork.length) draw();
}

// --- where the page is ----------------------------------------------------------------------------------------------

function route() {
  const model = /^#\/models\/([\w.-]+)$/.exec(location.hash)?.[1] ?? null;
  if (byId("app").hidden || model === (detail?.name ?? null)) return;
  detail = model === null ? null : new ModelView(fleet, acts, model);
  byId("overview").hidden = detail !== null;
  byId("detail").hidden = detail === null;
  drawAll = true;
  drawNow();
  if (detail) {
    scrollTo(0, 0);
    byId("detail-name").focus({ preventScroll: true });
  }
}

/** A link to a part of the overview, from wherever the page is. */
function goTo(event) {
  const link = event.target.closest("nav a");
  if (!link) return;
  event.preventDefault();
  location.hash = "#/";
  route();
  const heading = byId(link.hash.slice(1));
  heading.scrollIntoView();
  heading.focus({ preventScroll: true });
}

// --- what is said ---------------------------------------------------------------------------------------------------

let unsaid = [];
let spokenVerdict = "";

/** To who listens instead of looking: gathered for a moment, each thing once, and of the verdict only what it has come to. */
function say(text) {
  if (!unsaid.length) setTimeout(speak, SPOKEN_MS);
  unsaid.push(text ? `${text}.` : "");
}

function speak() {
  const verdict = byId("sentence").textContent;
  if (verdict !== spokenVerdict) unsaid.push(verdict);
  spokenVerdict = verdict;
  const told = [...new Set(unsaid)].filter(Boolean).slice(-4).join(" ");
  if (told) put(byId("spoken"), told);
  unsaid = [];
}

function notify(tone, text) {
  const close = el("button", { type: "button", class: "plain", "aria-label": "Close the notice", onclick: () => notice.remove() }, "Close");
  const notice = el("div", { class: `notice ${tone}` }, state(tone, text), close);
  byId("notices").prepend(notice);
  while (byId("notices").childElementCount > 3) byId("notices").lastElementChild.remove();
  if (tone === "good" || tone === "work") setTimeout(() => notice.remove(), NOTICE_MS);
}

// --- the beginning --------------------------------------------------------------------------------------------------

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set(byId("token").value.trim());
  logIn();
});
byId("log-out").addEventListener("click", logOut);
byId("try-now").addEventListener("click", () => live?.tryNow());
byId("clear-all").addEventListener("click", () => acts.open("clear-all"));
byId("bar").addEventListener("click", goTo);
addEventListener("hashchange", route);
setInterval(tick, 1000);

takeTokenOfLink();
if (token.get()) logIn();
else askForToken();
