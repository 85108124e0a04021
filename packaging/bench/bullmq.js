// BullMQ, for `make bench` to measure: prints times in ns as JSON.
//
//   node bullmq.js pickup|drain SOCKET WORKERS JOBS PAUSE
//
// PAUSE is how many ms may pass before the next job of pickup at most.
'use strict';
const { Queue, Worker } = require('bullmq');
const Redis = require('ioredis');

const [what, path, workers, jobs, pause] = process.argv.slice(2).map((a, i) => (i < 2 ? a : Number(a)));
const connect = () => new Redis({ path, maxRetriesPerRequest: null });
const now = () => process.hrtime.bigint();
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));
const remove = { removeOnComplete: true };

// Starts a worker that calls have for each job.
async function start(have) {
  const worker = new Worker('bench', async () => have(), { connection: connect(), concurrency: workers });
  worker.on('error', err => { console.error(err); process.exit(1); });
  await worker.waitUntilReady();
}

async function pickup(queue) {
  let had;
  await start(() => had(now()));
  await sleep(500);
  const times = [];
  for (let i = 0; i < jobs; i++) {
    await sleep(pause / 4 + Math.random() * pause * 3 / 4);
    const at = new Promise(resolve => { had = resolve; });
    const begin = now();
    await queue.add('job', {}, remove);
    times.push(Number(await at - begin));
  }
  return times;
}

async function drain(queue) {
  for (let i = 0; i < jobs; i += 1000) {
    await queue.addBulk(Array.from({ length: Math.min(1000, jobs - i) }, () => ({ name: 'job', data: {}, opts: remove })));
  }
  let done = 0;
  return new Promise(resolve => {
    const begin = now();
    start(() => { if (++done === jobs) resolve([Number(now() - begin)]); });
  });
}

(async () => {
  const queue = new Queue('bench', { connection: connect() });
  await queue.waitUntilReady();
  const times = await (what === 'pickup' ? pickup : drain)(queue);
  process.stdout.write(JSON.stringify(times) + '\n', () => process.exit(0));
})();
