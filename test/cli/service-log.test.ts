/** `smith logs --service` as a person types it. */
import t from 'tap'
import { problem } from './fake-coordinator.ts'
import { setUp } from './run-cli.ts'
import * as s from './samples.ts'

const record = (n: number, more: object = {}) => ({
  ...{ n, at: n * 1000, level: 'info', message: 'orderGranted', change: s.CHANGE, machine: 'web-1', fields: {} },
  ...more,
})

t.test('[SVL-6] the records are lines with what belongs to them, safe on a terminal, or JSON', async (t) => {
  const { home, fake } = await setUp(t)
  const hostile = record(2, { level: 'error', message: 'a\u001b[2Jb', fields: { reason: 'x\ny "z"', rev: '7' } })
  fake.on('serviceLog', ({ query }) =>
    query['after'] === '0'
      ? { records: [record(1)], upTo: 1, ended: false, trouble: null }
      : { records: [hostile], upTo: 2, ended: true, trouble: 'ENOSPC' },
  )
  const { out, err, status } = await home.run(['logs', '--service'])
  t.equal(status, 0, err)
  t.equal(out.split('\n').length, 3, 'one line each')
  t.notMatch(out, '\u001b')
  t.match(out, new RegExp(`^1970-01-01 00:00:01 info  orderGranted change=${s.CHANGE} machine=web-1\n`))
  t.match(out, / error a.*b change=.* reason="x.*y .*z.*" rev=7\n$/)
  t.equal(err, "The coordinator can't keep its log on disk: ENOSPC\n")
  const json = (await home.run(['logs', '--service', '--json'])).out.trimEnd().split('\n')
  t.same(
    json.map((text) => JSON.parse(text)),
    [record(1), hostile],
  )
})

t.test('[SVL-6] what is asked for is what was typed, and what does not go together is refused', async (t) => {
  const { home, fake } = await setUp(t)
  fake.on('serviceLog', () => ({ records: [], upTo: 9, ended: true, trouble: null }))
  await home.run(['logs', '--service', '--since', '1h', '--change', s.CHANGE.toLowerCase(), '--machine', 'WEB-1'])
  t.match(fake.calls.at(-1)?.query, { change: s.CHANGE, machine: 'web-1', after: '0', since: /^[0-9]+$/ })
  const asked = fake.calls.length
  for (const args of [
    ['logs'],
    ['logs', s.CHANGE, '--service'],
    ['logs', s.CHANGE, '--machine', 'web-1'],
    ['logs', '--service', '--raw'],
    ['logs', '--service', '--since', 'x'],
    ['logs', '--service', '--change', 'x'],
  ])
    t.match(await home.run(args), { status: 2, out: '' }, args.join(' '))
  t.equal(fake.calls.length, asked)
})

t.test('[SVL-6] following shows each record once, from where it was', async (t) => {
  const { home, fake } = await setUp(t)
  fake.on('serviceLog', ({ query, nth }) => {
    const after = Number(query['after'])
    if (nth === 3) return problem(503, 'unavailable', 'it ends', 'wait')
    return { records: [record(after + 1)], upTo: after + 1, ended: true, trouble: null }
  })
  const { out, status } = await home.run(['logs', '--service', '--follow', '--json'])
  t.not(status, 0, 'ends when the coordinator does')
  t.same(
    out
      .trimEnd()
      .split('\n')
      .map((text) => JSON.parse(text).n),
    [1, 2, 3],
  )
})
