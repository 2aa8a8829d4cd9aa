/** Windows and blackouts of the configuration as instants: what cron means, time zones, clocks that change. */
import t from 'tap'
import { createCalendar, isTimezone, ruleProblem } from '../../coordinator/calendar.ts'

const at = (text: string) => Date.parse(text)
const MINUTE = 60_000
const calendar = (rules: { timezone?: string; windows?: string[]; blackouts?: string[] }) =>
  createCalendar({ timezone: 'UTC', windows: [], blackouts: [], ...rules, runMsExpected: 1 })
/** `START..END why`, for short tables. */
const open = (rules: Parameters<typeof calendar>[0], from: string, minutes = 1) => {
  const found = calendar(rules).nextOpen(at(from), minutes * MINUTE)
  const iso = (instant: number | null) => (instant === null ? '' : `${new Date(instant).toISOString().slice(0, 16)}Z`)
  return found === null ? null : `${iso(found.start)}..${iso(found.end)}`
}

t.test('[WIN-1] without windows it is open always, and a blackout shuts it', async (t) => {
  t.equal(open({}, '2026-11-24T12:00Z', 100_000), '2026-11-24T12:00Z..')
  const blackouts = ['2026-11-24T13:00/15:00']
  t.equal(open({ blackouts }, '2026-11-24T12:00Z', 60), '2026-11-24T12:00Z..2026-11-24T13:00Z')
  t.equal(open({ blackouts }, '2026-11-24T12:00Z', 61), '2026-11-24T15:00Z..', 'too little is left before it')
  t.equal(open({ blackouts }, '2026-11-24T13:00Z'), '2026-11-24T15:00Z..')
  t.equal(open({ blackouts }, '2026-11-24T15:00Z'), '2026-11-24T15:00Z..', 'its end is not part of it')
})

t.test('[WIN-1] a recurring window is open as cron says, and what touches is one', async (t) => {
  const nights = { windows: ['0 22 * * 1-5 for 6h'] }
  t.equal(open(nights, '2026-11-24T12:00Z'), '2026-11-24T22:00Z..2026-11-25T04:00Z', 'a Tuesday')
  t.equal(open(nights, '2026-11-25T03:59Z'), '2026-11-25T03:59Z..2026-11-25T04:00Z')
  t.equal(open(nights, '2026-11-25T03:59Z', 2), '2026-11-25T22:00Z..2026-11-26T04:00Z')
  t.equal(open(nights, '2026-11-28T04:00Z'), '2026-11-30T22:00Z..2026-12-01T04:00Z', 'no weekend')
  t.equal(open(nights, '2026-11-24T12:00Z', 361), null, 'never long enough')
  const both = { windows: [...nights.windows, '0 4 * * * for 2h'] }
  t.equal(open(both, '2026-11-24T22:00Z', 480), '2026-11-24T22:00Z..2026-11-25T06:00Z')
  const yearly = { windows: ['0 0 29 2 * for 1d'] }
  t.equal(open(yearly, '2027-03-01T00:00Z'), '2028-02-29T00:00Z..2028-03-01T00:00Z')
  t.equal(open(yearly, '2026-03-01T00:00Z'), null, 'too far ahead to be looked for')
})

t.test('[WIN-1] a blackout cuts a window, and what is left of it counts if it is long enough', async (t) => {
  const rules = { windows: ['0 22 * * * for 6h'], blackouts: ['0 0 25 11 * for 2h'] }
  t.equal(open(rules, '2026-11-24T23:00Z', 60), '2026-11-24T23:00Z..2026-11-25T00:00Z')
  t.equal(open(rules, '2026-11-24T23:00Z', 90), '2026-11-25T02:00Z..2026-11-25T04:00Z')
  t.equal(open(rules, '2026-11-24T23:00Z', 150), '2026-11-25T22:00Z..2026-11-26T04:00Z')
})

t.test('[WIN-1] what no window is long enough for is told the same each time, and hides nothing shorter', async (t) => {
  const from = at('2026-11-24T12:00Z')
  const far = new Date(from + 400 * 86_400_000 + 43_200_000).toISOString().slice(0, 11)
  const rules = { windows: ['0 12 * * * for 1h', `${far}00:00Z/${far}01:30Z`] }
  const one = calendar(rules)
  const asked = [0, 23, 12, 30].flatMap((hours) => [70, 60, 121].map((minutes) => [hours, minutes] as const))
  for (const [hours, minutes] of asked) {
    const [now, needMs] = [from + hours * 60 * MINUTE, minutes * MINUTE]
    t.strictSame(
      one.nextOpen(now, needMs),
      calendar(rules).nextOpen(now, needMs),
      `${minutes} minutes in ${hours} hours`,
    )
  }
  t.equal(one.nextOpen(from, 70 * MINUTE), null, 'further away than is looked')
  t.not(one.nextOpen(from + 720 * MINUTE, 70 * MINUTE), null)
})

t.test('[WIN-1] times are those of the zone, also over a change of the clocks', async (t) => {
  const rules = { timezone: 'Europe/Berlin', windows: ['30 1 * * * for 3h'] }
  t.equal(open(rules, '2026-03-28T12:00Z'), '2026-03-29T00:30Z..2026-03-29T03:30Z', 'the night with an hour less')
  t.equal(open(rules, '2026-03-29T12:00Z'), '2026-03-29T23:30Z..2026-03-30T02:30Z')
  t.equal(open(rules, '2026-10-24T12:00Z'), '2026-10-24T23:30Z..2026-10-25T02:30Z', 'the night with an hour more')
  t.equal(open(rules, '2026-10-25T12:00Z'), '2026-10-26T00:30Z..2026-10-26T03:30Z')
  const { show, readSpan } = calendar(rules)
  t.equal(show(at('2026-11-24T21:00Z')), '2026-11-24 22:00 Europe/Berlin')
  t.same(readSpan('2026-11-24T22:00/04:00'), { start: at('2026-11-24T21:00Z'), end: at('2026-11-25T03:00Z') })
  t.same(readSpan('2026-11-24T22:00Z/2026-11-25T04:00+02:00'), {
    start: at('2026-11-24T22:00Z'),
    end: at('2026-11-25T02:00Z'),
  })
})

t.test('[WIN-1] what is no rule or no time is said so', async (t) => {
  for (const [text, problem] of [
    ['0 22 * * 1-5', /^neither CRON for DURATION nor START\/END/],
    ['0 22 * * 1-5 for ever', /^ever is no duration/],
    ['0 22 * * 1-5 for 0m', /^0m is no duration/],
    ['0 22 * * 1-5 for 32d', /^32d is no duration/],
    ['0 25 * * 1-5 for 1h', /25/],
    ['0 0 22 * * 1-5 for 1h', /^neither/],
    ['2026-02-30T00:00/04:00', /2026-02-30T00:00 is no time/],
    ['2026-11-24T22:00/2026-11-24T22:00', /does not come after/],
    ['2026-11-24T22:00/25:00', /25:00 is no time/],
    ['2026-11-24T22:00', /write START\/END/],
  ] as const)
    t.match(ruleProblem(text), problem, text)
  t.equal(ruleProblem('0 22 * * MON-FRI for 1h30m'), null)
  t.same(
    ['UTC', 'Europe/Berlin', 'Mars/Olympus', ''].map((name) => isTimezone(name)),
    [true, true, false, false],
  )
})
