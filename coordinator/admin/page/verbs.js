// What an operator can do to a model: how it is asked, sent, and told when it is done.

import { get } from "./api.js";
import { el } from "./dom.js";
import { counted, listed, percent, short } from "./words.js";

const named = (generation, version) => `generation ${generation}${version ? ` (${short(version)})` : ""}`;
const active = (model) => named(model.generation, model.version);
const candidate = (model) => named(model.candidate.generation, model.candidate.version);
const stopped = (model) => (model.candidate ? `; the candidate ${model.candidate.generation} is stopped` : "");
const after = (flip) => (flip.seconds?.total === undefined ? "" : `, after ${flip.seconds.total.toFixed(1)} s`);

/** Each: the title, the word of its button, from what to what, a further field, the body, the sentence of success. */
export const VERBS = {
  rollback: {
    button: "Roll back",
    title: (model) => `Roll back ${model.model}`,
    from: (model) => `${active(model)}${stopped(model)}`,
    to: (model) => el("span", {}, contents(model), " under a new generation number"),
    field: () => check("pin", "Pin the model there, or the next save of the training job undoes it"),
    body: (form) => ({ to: form.to ? Number(form.to) : null, pin: form.pin }),
    done: (model, flip) =>
      `${model.model}: generation ${flip.generation} is active, with the content of an earlier one${after(flip)}.`,
  },
  promote: {
    button: "Promote",
    title: (model) => `Promote ${model.model}`,
    from: (model) =>
      `${active(model)}; generation ${model.candidate.generation} answers ${percent(model.candidate.share ?? 0)}`,
    to: (model) => el("span", {}, `${candidate(model)} answers `, shares(model)),
    body: (form, model) => ({ share: form.share || null, generation: model.candidate.generation }),
    done: (model, flip) =>
      flip.outcome === "committed"
        ? `${model.model}: generation ${flip.generation} is active${after(flip)}.`
        : `${model.model}: generation ${flip.generation} answers a greater share now.`,
  },
  abort: {
    button: "Abort",
    title: (model) => `Abort the candidate of ${model.model}`,
    from: (model) => `${candidate(model)}, which is being ${model.phase === "canary" ? "tried" : "prepared"}`,
    to: (model) => (model.generation === null ? "nothing active, as it is now" : `${active(model)} stays active`),
    body: (_form, model) => ({ generation: model.candidate.generation }),
    done: (model, found) => `${model.model}: the candidate ${found.generation} was aborted.`,
  },
  pin: {
    button: "Pin",
    title: (model) => `Pin ${model.model}`,
    from: (model) => `${active(model)}, open to proposals`,
    to: (model) => `${active(model)}, proposals are refused until it is unpinned${stopped(model)}`,
    done: (model, found) => `${model.model} is pinned at generation ${found.generation}.`,
  },
  unpin: {
    button: "Unpin",
    title: (model) => `Unpin ${model.model}`,
    from: ({ pin }) => (pin ? `pinned by ${pin.by}${pin.why ? `: ${pin.why}` : ""}` : "not pinned any more"),
    to: (model) => `${active(model)}, open to proposals`,
    done: (model) => `${model.model} is open to proposals.`,
  },
  refresh: {
    button: "Refresh",
    title: (model) => `Refresh ${model.model}`,
    from: (model) => `${active(model)} as ${counted(model.holders, "worker")} loaded it`,
    to: () => "the same generation, loaded afresh beside the old copy; no new generation",
    done: (model, task) => tasked(`${model.model} was refreshed`, task),
  },
  clear: {
    button: "Clear",
    title: (model) => `Clear ${model.model}`,
    from: (model) => `${active(model)}, held by ${counted(model.holders, "worker")}`,
    to: () => "nothing held: the next request to each worker waits while it loads the model again",
    body: (_form, model) => ({ model: model.model }),
    done: (model, task) => tasked(`${model.model} was cleared`, task),
  },
  "clear-all": {
    button: "Clear all",
    title: () => "Clear all models",
    from: (_, fleet) => `${counted(fleet.models.size, "model")}, held by ${counted(fleet.workers.size, "worker")}`,
    to: () => "nothing held: the next requests to each worker wait while it loads what they use",
    body: () => ({ model: null }),
    done: (_, task) => tasked("all models were cleared", task),
  },
};

/** What became of a task on every worker. */
function tasked(what, { asked, done, failed, silent }) {
  const said = [`${what} on ${Object.keys(done ?? {}).length} of ${counted(asked, "worker")}`];
  const bad = Object.entries(failed ?? {}).map(([worker, why]) => `${worker}: ${why}`);
  if (bad.length) said.push(`failed at ${listed(bad)}`);
  if (silent?.length) said.push(`no answer from ${listed(silent)}`);
  return `${said.join("; ")}.`;
}

// --- fields ---------------------------------------------------------------------------------------------------------

function check(name, text) {
  const box = el("input", { type: "checkbox", id: `dialog-${name}`, name, checked: true });
  return el("label", { for: box.id, class: "check" }, box, text);
}

/** The committed generations whose content can be gone back to. */
function contents(model) {
  const back = model.way_back ? `the content of generation ${model.way_back}, the newest way back` : "the newest way back";
  const choice = el("select", { name: "to", "aria-label": "The content to go back to" }, el("option", { value: "" }, back));
  const told = (row) => `the content of ${named(row.generation, row.version)}${row.message ? `: ${row.message}` : ""}`;
  committed(model).then((rows) => choice.append(...rows.map((row) => el("option", { value: row.generation }, told(row)))));
  return choice;
}

async function committed(model) {
  try {
    const { generations } = await get(`models/${encodeURIComponent(model.model)}/history?limit=50`);
    return generations.filter((row) => row.outcome === "committed" && !row.active && row.generation !== model.way_back);
  } catch {
    return []; // the newest way back can be chosen without it
  }
}

function shares(model) {
  const steps = (model.candidate.steps ?? []).filter((step) => step > (model.candidate.share ?? 0));
  const parts = steps.map((step) => [String(step), `${percent(step)} of the requests with a key`]);
  const options = [["", "all requests: it becomes active"], ...parts];
  const label = { name: "share", "aria-label": "Share of the requests" };
  return el("select", label, ...options.map(([value, text]) => el("option", { value }, text)));
}
