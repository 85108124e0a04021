#!/usr/bin/env node
// Puts a job in and waits for its result, over a socket and without any
// package. A program that talks to Redis anyhow uses its client instead; the
// commands are the same.
//
//     produce.mjs ID <payload

import net from 'node:net';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

const queue = `gpuherd:queue:{${process.env.QUEUE ?? 'gpu'}}`;

// Redis speaks the protocol RESP: https://redis.io/docs/latest/develop/reference/protocol-spec/
class Redis {
  #socket;
  #read = Buffer.alloc(0);
  #waiting; // for the answer of the command that was sent: {resolve, reject}

  constructor(url) {
    const { protocol, hostname, port, pathname } = new URL(url);
    this.#socket = protocol === 'unix:' ? net.connect(pathname) : net.connect(Number(port || 6379), hostname);
    this.#socket.on('data', (data) => {
      this.#read = Buffer.concat([this.#read, data]);
      const answer = this.#parse(0);
      if (!answer) return; // not whole yet
      this.#read = this.#read.subarray(answer.end);
      const { resolve, reject } = this.#waiting;
      answer.value instanceof Error ? reject(answer.value) : resolve(answer.value);
    });
    this.#socket.on('error', (err) => this.#waiting?.reject(err));
    this.#socket.on('close', () => this.#waiting?.reject(new Error('Redis closed the connection')));
  }

  // One command at a time.
  command(...words) {
    const parts = [Buffer.from(`*${words.length}\r\n`)];
    for (const word of words) {
      const bytes = Buffer.from(word);
      parts.push(Buffer.from(`$${bytes.length}\r\n`), bytes, Buffer.from('\r\n'));
    }
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
      this.#socket.write(Buffer.concat(parts));
    });
  }

  close() {
    this.#socket.removeAllListeners('close').destroy();
  }

  // Reads the answer that begins at a place: its value and its end.
  #parse(from) {
    const eol = this.#read.indexOf('\r\n', from);
    if (eol < 0) return undefined;
    const line = this.#read.toString('utf8', from + 1, eol);
    const end = eol + 2;
    switch (String.fromCharCode(this.#read[from])) {
      case '+': return { value: line, end };
      case '-': return { value: new Error(line), end };
      case ':': return { value: Number(line), end };
      case '$': {
        const length = Number(line);
        if (length < 0) return { value: null, end };
        if (this.#read.length < end + length + 2) return undefined;
        return { value: this.#read.subarray(end, end + length), end: end + length + 2 };
      }
      case '*': {
        const value = [];
        let next = end;
        for (let i = 0; i < Number(line); i++) {
          const item = this.#parse(next);
          if (!item) return undefined;
          value.push(item.value);
          next = item.end;
        }
        return { value, end: next };
      }
    }
    return { value: new Error(`Redis answered ${line}`), end };
  }
}

const job = process.argv[2];
const redis = new Redis(process.env.REDIS_URL ?? 'redis://127.0.0.1:6379');
try {
  // The same id is the same job: after an error this may be done again.
  await redis.command('XADD', `${queue}:jobs`, '*', 'id', job, 'timeout', '600', 'payload', readFileSync(0));
  for (;;) {
    const [state, result, error] = await redis.command('HMGET', `${queue}:job:${job}`, 'state', 'result', 'error');
    if (state?.toString() === 'succeeded') {
      process.stdout.write(result);
      break;
    }
    if (['dead', 'cancelled'].includes(state?.toString())) {
      console.error(`job ${job} is ${state}: ${error ?? ''}`);
      process.exitCode = 1;
      break;
    }
    await sleep(100); // null before the first worker sees it, then waiting, delayed, running
  }
} catch (err) {
  console.error(err.message);
  process.exitCode = 1;
}
redis.close();
