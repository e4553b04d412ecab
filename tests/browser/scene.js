// Everything that the page can show at once: a candidate in work, a canary, a rejection, a pin, a worker that disagrees, one with an error.
{
  synthetic.begin({});
  const { models: [digits, encoder, fusion, ranker], workers } = synthetic;
  const now = Date.now() / 1000;
  const trainer = "trainer@gpu-1";
  const version = (generation) => String(generation).repeat(64);

  const candidate = {
    generation: 8, version: version(8), by: trainer, ready: 7, awaited: 4, failed: 1, fenced: 0, deadline: now + 90, share: null, steps: [],
    policy: null, figures: null,
  };
  const group = { requests: 431, errors: 3, mean_s: 0.012, p95_s: 0.03, score: 0.9 };
  const canary = {
    ready: 12, awaited: 0, failed: 0, share: 0.05, steps: [0.05, 0.25], figures: { active: group, candidate: group },
    policy: { errors: 0.01, latency: 1.25, score: null, requests: 200, seconds: 10 },
  };
  Object.assign(digits, { phase: "preparing", candidate });
  Object.assign(ranker, { phase: "canary", candidate: { ...candidate, ...canary } });
  encoder.pin = { by: "anna", at: now - 60, why: "run 40 answers too slowly" };
  workers[3].generations.encoder = 6;
  workers[4].last_error = "fusion: generation 8: head.bias is not finite";

  synthetic.progress = {
    model: "digits", generation: 8,
    workers: workers.map(({ worker, member, host }, index) => ({
      worker, member, host, state: index ? "awaited" : "failed", step: "verify", seconds: { verify: 0.2 }, why: index ? "" : "no memory",
    })),
  };

  const happened = (what, model, facts) => synthetic.events.push(synthetic.entry(what, model.model, facts));
  happened("candidate", fusion, { generation: "8", holders: 12, by: trainer });
  happened("rejected", fusion, { generation: "8", step: "check", why: "NaN in head.bias", worker: "eval-02:4101" });
  happened("candidate", digits, { generation: "8", holders: 12, by: trainer });
  happened("candidate", encoder, { generation: "7", holders: 12, by: trainer });
  happened("fencing", encoder, { generation: "7", ready: 12 });
  happened("committed", encoder, { generation: "7", by: trainer });

  synthetic.history = [7, 6].map((generation) => ({
    generation, version: version(generation), outcome: "committed", active: generation === 7, created_at: now - 60, author: trainer,
    message: `run ${generation}`, why: "", step: "", worker: "", rollback_of: null, seconds: { prepare: 1, fence: 0.02 }, workers: {},
    artifacts: [{ name: "model", size: 1e6, digest: version(generation), source: "/data/model.safetensors" }],
  }));
}
