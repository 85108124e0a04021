// What a PM2 user has between PM2's bus and Redis: every process event is
// published. Arguments: the unix socket of Redis, and the channel.
const { Redis } = require('ioredis');
const pm2 = require('pm2');
const [socket, channel] = process.argv.slice(2);
const redis = new Redis({ path: socket });
function must(err) { if (err) { console.error(err); process.exit(1); } }
redis.ping().then(() => pm2.connect((err) => {
  must(err);
  pm2.launchBus((err, bus) => {
    must(err);
    bus.on('process:event', ({ event, at, process: p }) => {
      redis.publish(channel, JSON.stringify({ event, at, name: p.name, restarts: p.restart_time, status: p.status }));
    });
    console.log('ready');
  });
}), must);
