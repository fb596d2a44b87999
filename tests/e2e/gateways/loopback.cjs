// Portkey's gateway has no option for the address it binds: this makes every server a local one.
const { Server } = require('node:net');

const listen = Server.prototype.listen;
Server.prototype.listen = function (options, ...rest) {
  if (typeof options === 'number') return listen.call(this, { port: options, host: '127.0.0.1' }, ...rest);
  if (options && typeof options === 'object') return listen.call(this, { ...options, host: '127.0.0.1' }, ...rest);
  return listen.call(this, options, ...rest);
};
