// Loaded by Node before a program that `plimsoll diff` runs: TLS to any host goes to the fake provider instead.
"use strict";
const tls = require("node:tls");
const port = Number(process.env.PLIMSOLL_DIFF_PORT);
const connect = tls.connect;
tls.connect = function (...args) {
  const options = typeof args[0] === "object" && args[0] !== null ? args[0] : null;
  if (port && options && !options.socket && options.host) {
    const servername = options.servername || options.host;
    args[0] = { ...options, host: "127.0.0.1", port, servername, path: undefined };
  }
  return connect.apply(this, args);
};
