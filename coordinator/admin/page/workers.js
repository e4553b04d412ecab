// The workers, by host. Hosts are folded while all is well with them, so that a thousand workers stay readable.

import { KINDS } from "./agreement.js";
import { byId, el, fill, offerMore, put, state, sync } from "./dom.js";
import { counted, number, rate, size, span } from "./words.js";

/** Hosts that are shown at once, and workers of one host; of more, those with trouble come first. */
const SHOWN_HOSTS = 25;
const SHOWN_WORKERS = 50;
/** Workers up to which every host is unfolded. */
const FEW = 24;
/** Models of a worker that are named; the others are counted. */
const NAMED = 4;

const WORDS = { behind: "disagrees", stale: "stale", cannot: "cannot load", silent: "silent", missing: "loading", pending: "changing" };

export class Workers {
  constructor(fleet) {
    this.fleet = fleet;
    this.table = byId("worker-table");
    this.groups = new Map(); // host → tbody
    this.folded = new Map(); // host → what a person chose
    this.whole = new Set(); // hosts of which every worker is shown
    this.isOpen = false;
    byId("more-hosts").addEventListener("click", () => this.toggle());
    byId("worker-filter").addEventListener("input", () => this.draw(true));
  }

  toggle() {
    this.isOpen = !this.isOpen;
    this.draw(true);
  }

  /** Unfolds the host of a worker, and shows its row. */
  show(member) {
    const host = this.fleet.workers.get(member)?.host;
    if (host === undefined) return;
    byId("worker-filter").value = "";
    this.folded.set(host, false);
    this.whole.add(host);
    this.isOpen ||= !this.groups.has(host);
    this.draw(true);
    const row = this.groups.get(host)?.parts.workers.get(member);
    row?.scrollIntoView({ block: "center" });
    row?.parts.name.focus();
  }

  draw(all = false) {
    const hosts = this.chosen();
    const shown = this.isOpen ? hosts : hosts.slice(0, SHOWN_HOSTS);
    const touched = this.touched();
    const known = new Set(this.groups.keys());
    sync(this.table, shown, this.groups, (host) => this.makeGroup(host), this.table.tHead);
    for (const host of shown) {
      if (all || touched.has(host) || !known.has(host)) this.updateGroup(host, this.groups.get(host).parts, all || !known.has(host));
    }
    const { size: count } = this.fleet.workers;
    const many = this.fleet.hosts.size > 1 ? ` on ${number(this.fleet.hosts.size)} hosts` : "";
    put(byId("worker-count"), `${number(count)}${many}`);
    byId("no-workers").hidden = count > 0 || !this.fleet.isWhole.workers;
    byId("worker-find").hidden = count <= FEW;
    byId("clear-all").disabled = count === 0;
    offerMore(byId("more-hosts"), hosts.length > shown.length, hosts.length, "hosts", this.isOpen && hosts.length > SHOWN_HOSTS);
  }

  touched() {
    const found = new Set();
    for (const member of this.fleet.changed.workers) {
      const host = this.fleet.workers.get(member)?.host;
      if (host !== undefined) found.add(host);
    }
    for (const [host, group] of this.groups) if (group.parts.count !== this.fleet.hosts.get(host)?.size) found.add(host);
    return found;
  }

  chosen() {
    const wanted = byId("worker-filter").value.trim().toLowerCase();
    const hosts = [...this.fleet.hosts.keys()].filter((host) => !wanted || this.matching(host, wanted).length).sort();
    if (hosts.length <= SHOWN_HOSTS) return hosts;
    const troubled = new Set([...this.fleet.agreement.troubles.keys()].map((member) => this.fleet.workers.get(member)?.host));
    return hosts.sort((a, b) => troubled.has(b) - troubled.has(a));
  }

  matching(host, wanted) {
    const members = [...this.fleet.hosts.get(host)];
    if (!wanted || host.toLowerCase().includes(wanted)) return members;
    return members.filter((member) => {
      const worker = this.fleet.workers.get(member);
      return worker.worker.toLowerCase().includes(wanted) || worker.models.some((model) => model.toLowerCase().includes(wanted));
    });
  }

  isFolded(host) {
    if (byId("worker-filter").value.trim()) return false;
    return this.folded.get(host) ?? this.fleet.workers.size > FEW;
  }

  // --- a host -----------------------------------------------------------------------------------------------

  makeGroup(host) {
    const toggle = el("button", { type: "button", class: "fold", onclick: () => this.fold(host) }, host || "(no host)");
    const sums = ["state", "held", "memory", "requests", "errors", "error"];
    const cells = Object.fromEntries(sums.map((name) => [name, el("td", { class: CLASSES[name] })]));
    const head = el("tr", { class: "host" }, el("th", { scope: "rowgroup" }, toggle), ...Object.values(cells));
    const rest = el("button", { type: "button", class: "more", onclick: () => this.showAll(host) });
    const more = el("tr", { class: "more-row", hidden: true }, el("td", { colspan: "7" }, rest));
    const body = el("tbody", {}, head, more);
    return Object.assign(body, { parts: { toggle, cells, head, more, rest, workers: new Map(), count: 0 } });
  }

  fold(host) {
    this.folded.set(host, !this.isFolded(host));
    this.draw(true);
  }

  showAll(host) {
    this.whole.add(host);
    this.draw(true);
  }

  updateGroup(host, group, all) {
    const members = this.fleet.hosts.get(host);
    group.count = members.size;
    this.updateHead(group, members, host);
    const matching = this.isFolded(host) ? [] : this.ordered(this.matching(host, byId("worker-filter").value.trim().toLowerCase()));
    const shown = this.whole.has(host) ? matching : matching.slice(0, SHOWN_WORKERS);
    this.syncRows(host, group, shown, all);
    group.more.hidden = shown.length === matching.length;
    put(group.rest, `Show all ${number(matching.length)} workers of ${host}`);
  }

  syncRows(host, group, shown, all) {
    const known = new Set(group.workers.keys());
    sync(this.groups.get(host), shown, group.workers, () => this.makeRow(), group.head);
    for (const member of shown) {
      if (all || !known.has(member) || this.fleet.changed.workers.has(member)) this.updateRow(group.workers.get(member), member);
    }
  }

  /** In the order in which they joined; of many, those with trouble first. */
  ordered(members) {
    const sorted = members.sort((a, b) => Number(a) - Number(b));
    if (sorted.length <= SHOWN_WORKERS) return sorted;
    return sorted.sort((a, b) => (this.fleet.agreement.of(b).length > 0) - (this.fleet.agreement.of(a).length > 0));
  }

  updateHead(group, members, host) {
    const { cells } = group;
    const isFolded = this.isFolded(host);
    const sum = this.sumOf(members);
    group.toggle.setAttribute("aria-expanded", String(!isFolded));
    fill(cells.state, sum.state, () => state(sum.state.tone, sum.state.text));
    put(cells.held, counted(sum.models, "model"));
    put(cells.memory, size(sum.bytes));
    put(cells.requests, sum.requests === null ? "–" : `${rate(sum.requests)}/s`);
    put(cells.errors, number(sum.errors));
    fill(cells.error, sum.troubled, () => el("span", {}, sum.troubled ? `${number(sum.troubled)} with an error` : ""));
  }

  sumOf(members) {
    const sum = { models: new Set(), bytes: 0, requests: null, errors: 0, troubled: 0 };
    for (const member of members) {
      const worker = this.fleet.workers.get(member);
      const stats = worker.about?.stats ?? {};
      for (const model of worker.models) sum.models.add(model);
      sum.bytes += stats.bytes ?? 0;
      sum.errors += stats.errors ?? 0;
      sum.troubled += worker.last_error ? 1 : 0;
      const each = this.fleet.rates.get(member)?.requests;
      if (typeof each === "number") sum.requests = (sum.requests ?? 0) + each;
    }
    return { ...sum, models: sum.models.size, state: this.stateOf(members) };
  }

  stateOf(members) {
    const { agreement } = this.fleet;
    const troubled = [...members].filter((member) => agreement.of(member).length);
    if (!troubled.length) return { tone: "good", text: members.size === 1 ? "1 worker agrees" : `all ${number(members.size)} agree` };
    const kinds = troubled.map((member) => agreement.of(member)[0].kind);
    const worst = KINDS.find((kind) => kinds.includes(kind));
    const member = troubled[kinds.indexOf(worst)];
    const some = kinds.filter((kind) => kind === worst).length;
    return { tone: agreement.tone(member), text: `${number(some)} of ${number(members.size)} ${WORDS[worst]}` };
  }

  // --- a worker ---------------------------------------------------------------------------------------------

  makeRow() {
    const cells = { name: el("th", { scope: "row", tabindex: "-1" }) };
    for (const [name, kind] of Object.entries(CLASSES)) cells[name] = el("td", { class: kind });
    return Object.assign(el("tr", { class: "worker" }, ...Object.values(cells)), { parts: cells });
  }

  updateRow(row, member) {
    const { fleet } = this;
    const cells = row.parts;
    const worker = fleet.workers.get(member);
    const stats = worker.about?.stats ?? {};
    const rates = fleet.rates.get(member);
    const troubles = fleet.agreement.of(member);
    const tone = fleet.agreement.tone(member);
    const word = troubles.length ? WORDS[troubles[0].kind] : "agrees";
    row.title = `member ${member}${worker.started_at ? `, up ${span(fleet.now() - worker.started_at)}` : ""}`;
    put(cells.name, shortName(worker));
    fill(cells.state, [tone, word, leaseOf(worker)], () => [state(tone, word), el("span", { class: "quiet under" }, leaseOf(worker))]);
    const held = heldOf(worker, troubles);
    fill(cells.held, held, () => heldCell(held));
    put(cells.memory, typeof stats.bytes === "number" ? size(stats.bytes) : "–");
    put(cells.requests, rates?.requests == null ? "–" : `${rate(rates.requests)}/s`);
    put(cells.errors, stats.errors === undefined ? "–" : number(stats.errors));
    const said = textOf(worker.last_error) || stateText(worker);
    fill(cells.error, said, () => el("span", {}, said));
    cells.error.title = said;
  }
}

const CLASSES = {
  state: "doing",
  held: "middle held-cell",
  memory: "number middle",
  requests: "number",
  errors: "number",
  error: "error-text",
};

const shortName = (worker) => (worker.pid && worker.worker.endsWith(`:${worker.pid}`) ? String(worker.pid) : worker.worker);

const textOf = (error) => (typeof error === "string" ? error : error ? (error.why ?? JSON.stringify(error)) : "");

/** Whether its lease is alive: without heartbeats it has run out. */
const leaseOf = (worker) => (worker.silent_since ? "lease run out" : "lease live");

/** What a worker does beside answering. */
function stateText(worker) {
  const loading = Object.entries(worker.about?.loading ?? {});
  return loading.map(([model, about]) => `loads ${model} ${about.generation}: ${about.step}${percentOf(about)}`).join(", ");
}

/** How far a fetch is; nothing of other steps. */
const percentOf = ({ step, done, total }) => (step === "fetch" && total > 0 ? ` ${Math.floor((100 * done) / total)} %` : "");

/** The models of a worker with what it reports: those that are not as they should be first. */
function heldOf(worker, troubles) {
  const odd = new Set(troubles.map((trouble) => trouble.model));
  const names = [...new Set([...worker.models, ...Object.keys(worker.generations)])];
  names.sort((a, b) => odd.has(b) - odd.has(a) || (a < b ? -1 : 1));
  const named = names.slice(0, NAMED).map((name) => ({ name, generation: worker.generations[name] ?? null, isOdd: odd.has(name) }));
  return { named, more: names.length - named.length };
}

function heldCell({ named, more }) {
  const items = named.map(({ name, generation, isOdd }) => {
    const shown = el("b", {}, generation === null ? "not loaded" : String(generation));
    return el("span", { class: isOdd ? "held odd" : "held" }, `${name} `, shown, " ");
  });
  return more > 0 ? [...items, el("span", { class: "quiet" }, `and ${more} more`)] : items;
}
