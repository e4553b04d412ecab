-- abort: stops the candidate, and it only: what waits becomes the candidate. Arguments: see _operator.lua.
--
-- Verdicts  ok: generation     conflict: found (another candidate, or "0": none)     closed, unknown-model

local early = guard() or refused('abort', 'cand', {generation = named})
if early then return early end
if not record.cand then return answer_with('conflict', {found = '0'}) end

local version = record.cand.version
finish(name, 'aborted', {why = why ~= '' and why or 'no reason given', worker = by})
return answer_with('ok', {state = 'done', generation = expected, version = version})
