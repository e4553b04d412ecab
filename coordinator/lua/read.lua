-- read: a model for publishers and people. Grants nothing, writes nothing.
--
-- ARGV      9 model   10 request id, or empty   11 ids that the caller watches, by spaces
-- Verdicts  ok: states {model → state}, answer (of that request, if it is known), watch {id → beat}, due

local early = guard()
if early then return early end
local name, request, watched = ARGV[9], ARGV[10], ARGV[11]

local answer = request ~= '' and earlier_answer(name, request) or nil
local named = watch(watched)
return reply('ok', {states = states({[name] = true}), answer = answer, watch = named, due = due() and 1 or 0})
