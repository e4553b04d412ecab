-- task: something that every worker does once, fleet-wide: clear (drop and load again) or refresh (load the active one afresh).
--
-- ARGV      9 start | answer
--           start:  10 request id   11 clear | refresh   12 model, or empty: all   13 time, ms   14 by   15 why
--           answer: 10 member id    11 task   12 done | failed   13 JSON: worker, why
-- Verdicts  ok: task, awaited     busy: 16 tasks are running     closed     reused: the request is that of another task, `found`
-- Keeps     the same request again is the same task; only who was a member (refresh: a holder) at the start is waited for

local early = guard()
if early then return early end
local MOST_TASKS = 16
local action = ARGV[9]

if action == 'answer' then
  take_beat()
  task_answered(ARGV[11], ARGV[10], ARGV[12] == 'done' and 'done' or 'failed', ARGV[13])
  save()
  return reply('ok')
end

local request, kind, name, length, by, why = ARGV[10], ARGV[11], ARGV[12], tonumber(ARGV[13]), ARGV[14], ARGV[15]
local known, oldest = 0, nil -- the oldest that has ended, by its number
for tid, task in pairs(fleet.tasks) do
  if task.request == request then
    if task.kind == kind and task.model == name then return reply('ok', {task = tid, awaited = task.asked}) end
    return reply('reused', {found = task.kind .. ' of ' .. (task.model ~= '' and task.model or 'all models')})
  end
  known = known + 1
  if task.ended and (not oldest or tonumber(tid) < tonumber(oldest)) then oldest = tid end
end
if not fleet.open then return reply('closed') end
if known >= MOST_TASKS then
  if not oldest then return reply('busy') end
  forget_task(oldest)
end

local tid = whole(revise(name))
local ids = name ~= '' and holders_of(name) or {}
if name == '' then
  for _, id in ipairs(redis.call('HKEYS', members_key)) do
    if id ~= '@' then ids[#ids + 1] = id end
  end
end
local rows = {}
for _, id in ipairs(ids) do
  rows[#rows + 1] = field_of('#', tid, id)
  rows[#rows + 1] = 'awaited '
end
write_many('HSET', waiting_key, rows, 2)
local task = {kind = kind, model = name, request = request, by = by, asked = #ids, awaited = #ids, done = 0, failed = 0}
arm(task, length)
fleet.tasks[tid] = task
set('tasks', fleet.tasks)
log('task-started', name, {task = tid, kind = kind, by = by, why = why, awaited = #ids})
if #ids == 0 then end_task(tid) end
save()
return reply('ok', {task = tid, awaited = #ids})
