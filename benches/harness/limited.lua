-- Counts what was let through and what was refused, and prints that as one line of JSON. Anything else is an error.
local threads = {}

function setup(thread)
    table.insert(threads, thread)
end

function init()
    admitted, refused, other = 0, 0, 0
end

function response(status)
    if status == 200 then
        admitted = admitted + 1
    elseif status == 429 then
        refused = refused + 1
    else
        other = other + 1
    end
end

function done(summary)
    local admitted, refused, other = 0, 0, 0
    for _, thread in ipairs(threads) do
        admitted = admitted + thread:get("admitted")
        refused = refused + thread:get("refused")
        other = other + thread:get("other")
    end
    local errors = summary.errors
    local failed = other + errors.connect + errors.read + errors.write + errors.timeout
    print(string.format('{"duration":%d,"admitted":%d,"refused":%d,"failed":%d}', summary.duration, admitted, refused, failed))
end
