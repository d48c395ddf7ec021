-- Asks a Keepgate gate about a request: http-request lua.keepgate. Sets txn.keepgate to "allowed"
-- and goes on, or ends the request with the gate's answer. An answer that does not come is 503,
-- never 403.

-- The section `listen keepgate` of haproxy.cfg, which knows the gate's address.
local SOCKET = "abns@keepgate-check"
-- Milliseconds; above the timeouts of that section, which end a check.
local TIMEOUT = 10000

-- The gate's answers that callers get as they are. Any other status is "cannot decide".
local TOLD = {
  [400] = true, [401] = true, [403] = true, [404] = true, [405] = true, [408] = true,
  [413] = true, [414] = true, [421] = true, [429] = true, [431] = true, [501] = true,
  [503] = true,
}

-- Not sent with the check: what concerns the connection or the body, and what is set below.
local OWN = {
  ["connection"] = true, ["content-length"] = true, ["transfer-encoding"] = true,
  ["upgrade"] = true, ["expect"] = true, ["te"] = true, ["trailer"] = true,
  ["keep-alive"] = true, ["proxy-connection"] = true, ["x-forwarded-method"] = true,
  ["x-forwarded-uri"] = true, ["x-forwarded-for"] = true, ["x-forwarded-host"] = true,
  ["x-forwarded-proto"] = true,
}

-- Not passed on from the gate's answer.
local HOP = {
  ["connection"] = true, ["content-length"] = true, ["transfer-encoding"] = true,
  ["keep-alive"] = true,
}

local function first(values)
  return values and values[0]
end

local function cannot_decide(txn)
  local reply = txn:reply{ status = 503 }
  reply:add_header("Retry-After", "1")
  reply:add_header("Cache-Control", "no-store")
  txn:done(reply)
end

local function check(txn)
  local headers = {}
  for name, values in pairs(txn.http:req_get_headers()) do
    if not OWN[name] then
      headers[name] = {}
      -- HAProxy counts values from 0, and its client from 1.
      for i = 0, #values do
        table.insert(headers[name], values[i])
      end
    end
  end
  headers["x-forwarded-method"] = { txn.sf:method() }
  -- The target as it was sent, with its query.
  headers["x-forwarded-uri"] = { txn.sf:pathq() }
  headers["x-forwarded-for"] = { txn.sf:src() }
  headers["x-forwarded-proto"] = { txn.sf:ssl_fc() == 1 and "https" or "http" }
  headers["x-forwarded-host"] = headers["host"]

  local answer = core.httpclient():get{
    url = "http://keepgate/forward-auth", dst = SOCKET, headers = headers, timeout = TIMEOUT,
  }
  -- No status: no answer at all.
  local status = answer and answer.status or 0
  if status == 200 then
    local principal = first(answer.headers["keepgate-principal"])
    local assertion = first(answer.headers["keepgate-assertion"])
    if principal then txn:set_var("txn.keepgate_principal", principal) end
    if assertion then txn:set_var("txn.keepgate_assertion", assertion) end
    txn:set_var("txn.keepgate", "allowed")
    return
  end
  -- Each 503 of the gate says when to come back; one without is HAProxy's own.
  if not TOLD[status] or (status == 503 and not answer.headers["retry-after"]) then
    return cannot_decide(txn)
  end
  local reply = txn:reply{ status = status, body = answer.body }
  for name, values in pairs(answer.headers) do
    if not HOP[name] then
      for i = 0, #values do
        reply:add_header(name, values[i])
      end
    end
  end
  txn:done(reply)
end

core.register_action("keepgate", { "http-req" }, check, 0)
