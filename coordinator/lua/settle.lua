-- settle: a deadline has passed: moves every candidate and task on, and finds the earliest deadline anew (R8).
--
-- Verdicts  ok
-- Keeps     a deadline further away than its own length (the server's clock was set back) begins again

local early = guard()
if early then return early end
local KEPT_TASKS_MS = 60000 -- what a finished task found stays that long for who asked for it

for _, name in ipairs(redis.call('HKEYS', models_key)) do
  local record = name ~= '@' and model(name)
  if record and record.cand then
    touch(name)
    progress(name)
  end
  if record and record.watch then
    touch(name)
    if expired(record.watch) then
      stop_watch(name)
      changed(name)
    end
  end
end

local function settle_task(tid, task)
  local late = expired(task)
  if task.ended and now_ms() - tonumber(task.ended) > KEPT_TASKS_MS then
    forget_task(tid)
  elseif late and not task.ended then
    end_task(tid)
  end
  set('tasks', fleet.tasks)
end

local tids = {}
for tid in pairs(fleet.tasks) do tids[#tids + 1] = tid end
for _, tid in ipairs(tids) do settle_task(tid, fleet.tasks[tid]) end

set('deadline', 0)
set('longest', 0)
for name, record in pairs(records) do
  for _, place in ipairs({'cand', 'watch'}) do
    local waits = record and record[place]
    if waits then remember_deadline(tonumber(waits.deadline), tonumber(waits.length)) end
  end
end
for _, task in pairs(fleet.tasks) do
  if task.ended then
    remember_deadline(tonumber(task.ended) + KEPT_TASKS_MS + 1, KEPT_TASKS_MS + 1)
  else
    remember_deadline(tonumber(task.deadline), tonumber(task.length))
  end
end
save()
return reply('ok')
