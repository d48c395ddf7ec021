// An upstream on Express that says what it reads; `/admin` has a route, as applications have.
// Arguments: the port file. It ends when its standard input does.
"use strict";
const fs = require("node:fs");
const express = require("express");

const app = express();
app.disable("x-powered-by");

function reads(route, request, response) {
  // `new URL` is how many programs read a target; it must not find another host or path in it.
  const url = new URL(request.url, "http://base.invalid");
  response.set("X-Echo", "express").json({
    route,
    method: request.method,
    path: decodeURIComponent(request.path),
    url_path: decodeURIComponent(url.pathname),
    host: request.headers.host,
    headers: Object.keys(request.headers),
  });
}

app.all(["/admin", "/admin/*"], (request, response) => reads("admin", request, response));
app.use((request, response) => reads("other", request, response));

const server = app.listen(0, "127.0.0.1", () => {
  fs.writeFileSync(process.argv[2] + ".new", String(server.address().port));
  fs.renameSync(process.argv[2] + ".new", process.argv[2]);
});
process.stdin.resume().on("end", () => process.exit(0));
