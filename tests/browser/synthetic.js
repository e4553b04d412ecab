// Put into the page before its own scripts: a fleet that exists only there, as large as a test wants it. It answers `fetch` in the place of
// the admin. `synthetic.begin({hosts, perHost, models})` makes it; `push(event, data)` tells the page something; `drop()` ends its connection.
(() => {
  const HEX = "0123456789abcdef";
  const digest = (seed) => Array.from({ length: 64 }, (_, i) => HEX[(seed * 31 + i * (seed % 7 + 3)) % 16]).join("");
  const now = () => Date.now() / 1000;
  let count = 0;

  const json = (body, status = 200, headers = {}) =>
    new Response(JSON.stringify(body), { status, headers: { "content-type": status < 400 ? "application/json" : "application/problem+json", ...headers } });

  const text = (event, data, id) => `event: ${event}\n${id ? `id: ${id}\n` : ""}data: ${JSON.stringify(data)}\n\n`;

  const model = (name, index) => ({
    model: name, generation: 7, version: digest(index + 1), committed_at: now() - 3600 - 97 * index, unproven: false, phase: "idle", candidate: null,
    waits: null, pin: null, holders: 0, poisoned: 0, message: "", author: "trainer@gpu-1", way_back: 6, watch: null,
  });

  const worker = (index, host, pid, names) => ({
    worker: `${host}:${pid}`, member: String(index + 1), host, pid, started_at: now() - 86400, models: names,
    generations: Object.fromEntries(names.map((name) => [name, 7])), last_error: "",
    about: {
      models: {}, loading: {},
      stats: { uptime_s: 1000, hits: 40000 + 13 * index, misses: 3, errors: 0, bytes: 48e6 * names.length, lease_s: 2.1 },
    },
  });

  const synthetic = (window.synthetic = {
    role: "operator", isDown: false, isCut: false, status: 200, models: [], workers: [], events: [], history: [], posts: [], streams: new Set(), answer: null,

    /** A fleet whose workers hold `each` models. */
    begin({ hosts = 3, perHost = 4, models = 4, each = 4, names = ["digits", "encoder", "fusion", "ranker"] } = {}) {
      const name = (index) => names[index] ?? `model-${String(index).padStart(3, "0")}`;
      this.models = Array.from({ length: models }, (_, index) => model(name(index), index));
      this.workers = Array.from({ length: hosts * perHost }, (_, index) => {
        const held = Array.from({ length: Math.min(each, models) }, (_, k) => name((index * 3 + k) % models));
        return worker(index, `eval-${String(Math.floor(index / perHost) + 1).padStart(2, "0")}`, 4100 + index % perHost, held);
      });
      for (const one of this.models) one.holders = this.workers.filter((found) => found.models.includes(one.model)).length;
    },

    facts: (more) => ({
      name: "prod", id: "f", epoch: 1790000000, open: true, lease_s: 3, revision: 42, redis: "redis-1:6379", store: "/mnt/models",
      counts: {}, as_of: now(), stale: false, why: "", ...more,
    }),

    entry: (what, model = "", facts = {}, at = now()) => ({ id: `${Math.round(at * 1000)}-${count++}`, at, what, model, facts }),

    /** The outcomes with which changes are answered, one after the other. */
    answers(...outcomes) {
      this.answer = () => json({ outcome: outcomes.shift(), generation: 9, state: "preparing", seconds: { total: 0.4 } });
    },

    /** Tells every connection of the page. */
    push(event, data, id) {
      for (const stream of this.streams) stream.enqueue(new TextEncoder().encode(text(event, data, id)));
    },

    log(what, model, facts) {
      const entry = this.entry(what, model, facts);
      this.events.push(entry);
      this.push("log", entry, entry.id);
    },

    drop() {
      for (const stream of this.streams) stream.error(new TypeError("network error"));
      this.streams.clear();
    },

    /** Milliseconds from when the page gets the events of `change()`, as [event, data], until they are drawn and laid out. */
    async measure(change) {
      const pieces = change().map(([event, data, id]) => new TextEncoder().encode(text(event, data, id)));
      await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
      const began = performance.now();
      for (const stream of this.streams) for (const piece of pieces) stream.enqueue(piece);
      await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
      await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
      document.body.getBoundingClientRect();
      return performance.now() - began;
    },
  });

  const routes = {
    whoami: () => ({ role: synthetic.role, name: "anna" }),
    events: () => ({ events: synthetic.events }),
    history: () => ({ generations: synthetic.history }),
  };

  function stream(signal) {
    let mine = null;
    const body = new ReadableStream({
      start(controller) {
        mine = controller;
        synthetic.streams.add(controller);
        signal?.addEventListener("abort", () => {
          synthetic.streams.delete(controller);
          controller.error(new DOMException("aborted", "AbortError"));
        });
        const tell = (event, data) => controller.enqueue(new TextEncoder().encode(text(event, data)));
        tell("fleet", synthetic.facts());
        tell("models", { changed: synthetic.models, gone: [] });
        tell("workers", { changed: synthetic.workers, gone: [] });
      },
      cancel() {
        synthetic.streams.delete(mine);
      },
    });
    return new Response(body, { headers: { "content-type": "text/event-stream" } });
  }

  window.fetch = async (path, options = {}) => {
    if (synthetic.isDown) throw new TypeError("Failed to fetch");
    if (synthetic.status !== 200) return json({ title: "Refused", status: synthetic.status, detail: "refused" }, synthetic.status);
    if (options.method === "POST") {
      synthetic.posts.push({ path, body: JSON.parse(options.body), key: options.headers["idempotency-key"] });
      if (synthetic.isCut) throw new TypeError("network error");
      return synthetic.answer ? synthetic.answer(path) : json({ outcome: "done", generation: 1 });
    }
    if (path.includes("follow=1")) return stream(options.signal);
    return json((path.includes("/history") ? routes.history : path.includes("events") ? routes.events : routes.whoami)());
  };
})();
