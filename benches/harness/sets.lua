-- As done.lua, with a key of its own for each request.
dofile(os.getenv("FNHOST_BENCH_DONE"))
local number = 0
local thread

function setup(each)
   thread = (thread or 0) + 1
   each:set("first", thread)
end

function request()
   number = number + 1
   return wrk.format("GET", "/?" .. first .. "-" .. number % 100000)
end
