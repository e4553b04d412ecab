-- hold: a member's whole list of models, sent before the load; only what the reply names may be installed.
--
-- ARGV      9 id   10 counter of this list   11… models
-- Verdicts  ok: states of the list's models (also for the same counter again)    unknown: no member    old: a later list is known
-- Keeps     a late copy changes nothing (R10); who drops a model is not waited for any more, and stopped using its lease before (R1);
--           who starts to hold while preparing or in a canary may get ready and is not waited for (`late`), while fencing gets no entry (R4)

local early = guard()
if early then return early end
local id, counter, names, list = ARGV[9], tonumber(ARGV[10]), {}, {}
for i = 11, #ARGV do
  names[ARGV[i]] = true
  list[#list + 1] = ARGV[i]
end

if not beat_of(id) then return reply('unknown') end
local known, before = list_of(id)
if counter < known then return reply('old') end
if counter > known then
  put_list(id, table.concat({whole(counter), unpack(list)}, ' '))
  for name in pairs(names) do
    local record = not before[name] and model(name)
    local c = record and record.cand
    if c and c.phase ~= 'fencing' then
      count(c, 'late', 1)
      put_entry(field_of(name, c.gen, id), 'late')
      touch(name)
    end
  end
  for name in pairs(before) do
    if not names[name] then remove_entry(name, id, false) end
  end
end
take_beat()
local found = states(names, id)
save()
return reply('ok', {states = found})
