-- As done.lua, at a rate: each connection waits for DELAY_MS on average between an answer and its next request.
dofile(os.getenv("FNHOST_BENCH_DONE"))
local most = 2 * tonumber(os.getenv("FNHOST_BENCH_DELAY_MS"))

function delay()
   return math.random(0, most)
end
