// The whole application under Node.js, on a host of the test's own.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';

const source = await readFile(new URL('app.js', import.meta.url), 'utf8');
const imports = /^import (\w+) from 'outlast:app\/\w+@[\d.]+';$/gm;
const runnable = source.replace(imports, 'const $1 = globalThis.host.$1;');

let calls, settings, now;
const said = (name) => (...values) => { calls.push([name, ...values]); };
globalThis.host = {
  config: { all: () => Object.entries(settings) },
  log: { write: () => {} },
  session: { now: () => now },
  sip: { respond: said('respond'), proxy: said('proxy') },
};
const { handler, isOpen } = await import(`data:text/javascript,${encodeURIComponent(runnable)}`);

const HOURS = { open: '08:00-12:00 13:00-17:30', closed_days: 'sat sun', utc_offset_minutes: '60' };
const at = (text) => Date.parse(text);

function answer(text, more = {}, message = { method: () => 'INVITE' }, initial = true) {
  calls = [];
  settings = { ...HOURS, ...more };
  now = at(text);
  handler.handle({ tag: 'request', val: { leg: 'caller', request: 7, initial, message } });
  return calls;
}

test('hours are those of the place', () => {
  for (const [text, expected] of [
    ['2026-01-05T06:59:59Z', false], // Monday 07:59:59
    ['2026-01-05T07:00:00Z', true],
    ['2026-01-05T11:00:00Z', false], // lunch
    ['2026-01-05T16:29:59Z', true],
    ['2026-01-05T16:30:00Z', false],
    ['2026-01-03T09:00:00Z', false], // Saturday
    ['2026-01-04T23:30:00Z', false], // Monday 00:30
  ]) assert.equal(isOpen(at(text), HOURS), expected, text);
});

test('a span may go over midnight', () => {
  const hours = { open: '22:00-06:00' };
  assert.equal(isOpen(at('2026-01-05T23:00:00Z'), hours), true);
  assert.equal(isOpen(at('2026-01-05T05:59:00Z'), hours), true);
  assert.equal(isOpen(at('2026-01-05T06:00:00Z'), hours), false);
});

test('a setting that makes no sense is an error, not a guess', () => {
  assert.throws(() => isOpen(at('2026-01-05T09:00:00Z'), { open: '8-12' }), /no time of day/);
  assert.throws(() => isOpen(at('2026-01-05T09:00:00Z'), { open: '08:00-24:30' }), /no time of day/);
});

test('while it is open, calls go to the phones', () => {
  const [[name, request, targets]] = answer('2026-01-05T09:00:00Z');
  assert.deepEqual([name, request, targets], ['proxy', 7, []]);
});

test('else they are busy, or sent elsewhere', () => {
  assert.deepEqual(answer('2026-01-05T20:00:00Z'), [['respond', 7, 486, '', [], undefined]]);
  const contact = { name: 'Contact', value: '<sip:night@example.com>' };
  assert.deepEqual(answer('2026-01-05T20:00:00Z', { forward_to: 'sip:night@example.com' }), [
    ['respond', 7, 302, '', [contact], undefined],
  ]);
});

test('requests in a dialog are not taken for calls', () => {
  assert.deepEqual(answer('2026-01-05T20:00:00Z', {}, { method: () => 'BYE' }, false), []);
  assert.equal(answer('2026-01-05T20:00:00Z', {}, { method: () => 'INFO' }, false)[0][2], 501);
});
