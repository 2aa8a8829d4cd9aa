/** `smith schedule` as a person types it. */
import t from 'tap'
import type { ScheduleView } from '../../protocol/recurring.ts'
import { problem } from './fake-coordinator.ts'
import { setUp } from './run-cli.ts'
import * as s from './samples.ts'

const SCHEDULE: ScheduleView = {
  name: 'nightly',
  cron: '0 22 * * *',
  timezone: 'UTC',
  text: 'prod machines: web-* outage:0',
  by: 'ann',
  createdAt: 0,
  next: 79_200_000,
  firings: [
    { at: 0, by: 'ann', outcome: 'missed', request: null, change: null, reasons: ['old'] },
    { at: 0, by: 'ann', outcome: 'raised', request: s.id('1'), change: s.CHANGE, reasons: [] },
    { at: 60_000, by: 'ann', outcome: 'skipped', request: null, change: null, reasons: ['still \u001b[31mopen\nX'] },
    {
      at: 120_000,
      by: 'ann',
      outcome: 'refused',
      request: null,
      change: null,
      reasons: ['a', 'b', 'c', 'd', 'e', 'f', 'g'],
    },
  ],
}

t.test('[SCD-12] the list shows what comes next and what became of the last times, safe on a terminal', async (t) => {
  const { home, fake } = await setUp(t)
  fake.on('schedules', () => ({ schedules: [SCHEDULE] }))
  const { out, status } = await home.run(['schedule', 'list'])
  t.equal(status, 0)
  t.notMatch(out, '\u001b[31m')
  t.notMatch(out, /^X/m, 'nothing begins a line of its own')
  t.notMatch(out, /old/, 'what was before the last that was raised is over')
  t.match(
    out,
    /^NAME +CRON +NEXT +BY +REQUEST\nnightly +0 22 \* \* \* +1970-01-01 22:00:00 \(cron in UTC\) +ann +prod /,
  )
  t.match(out, new RegExp(`\n   1970-01-01 00:00:00 raised ${s.CHANGE}\n   1970-01-01 00:01:00 skipped\n      still `))
  t.match(out, / refused\n {6}a\n {6}b\n {6}c\n {6}d\n {6}e\n {6}and 2 more reasons\n$/)
  t.same(JSON.parse((await home.run(['schedule', 'list', '--json'])).out), [SCHEDULE])
  fake.on('schedules', () => ({ schedules: [] }))
  t.equal((await home.run(['schedule', 'list'])).out, 'No schedules.\n')
})

t.test('[SCD-12] add, run and remove send just what was typed, and say what comes', async (t) => {
  const { home, fake } = await setUp(t)
  for (const name of ['scheduleAdd', 'scheduleRun'] as const) fake.on(name, () => SCHEDULE)
  fake.on('scheduleRemove', () => ({ done: true, rev: 1 }))
  const words = ['prod', 'machines:', 'web-*', 'outage:0']
  t.match(await home.run(['schedule', 'add', 'nightly', ...words, '--cron', '0 22 * * *']), {
    status: 0,
    out: 'The schedule nightly is made. It asks first 1970-01-01 22:00:00 (cron in UTC), in the name of ann.\n',
  })
  t.same(fake.calls.at(-1)?.body, { name: 'nightly', cron: '0 22 * * *', text: 'prod machines: web-* outage:0' })
  t.match(await home.run(['schedule', 'run', 'nightly']), { status: 0, out: /^Asked\./ })
  t.match(await home.run(['schedule', 'remove', 'nightly']), { status: 0, out: 'The schedule nightly is removed.\n' })
  t.match(await home.run(['schedule', 'remove', 'a/b']), { status: 2 })
  t.match(await home.run(['schedule', 'add', 'nightly', ...words]), { status: 2, err: /--cron/ })
  fake.on('scheduleRun', () => problem(409, 'conflict', 'nightly: its last project is still open', 'wait'))
  t.match(await home.run(['schedule', 'run', 'nightly']), { status: 1, err: /still open\n {3}do: wait/i })
  t.equal((await home.run(['__complete', 'schedules'])).out, '')
  fake.on('schedules', () => ({ schedules: [SCHEDULE] }))
  t.equal((await home.run(['__complete', 'schedules'])).out, 'nightly\n')
})
