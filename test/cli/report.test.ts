/** `smith report` as a person types it. */
import { existsSync, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { ReportView } from '../../protocol/report.ts'
import { problem } from './fake-coordinator.ts'
import { makeHome, setUp } from './run-cli.ts'
import * as s from './samples.ts'

const REPORT = 'ab'.repeat(16)
const view = (machine: string, more: Partial<ReportView> = {}): ReportView => ({
  ...{ report: REPORT, machine, state: 'collecting', by: 'ann', askedAt: 1, order: null, change: null, parts: null },
  ...{ problem: null, summary: null, files: [] },
  ...more,
})
const done = (machine: string) =>
  view(machine, {
    state: 'done',
    summary: `# ${machine}: failed at install (lock)\u001b[2J\n\n**Cause (lock)**: held\n`,
    files: ['run-output.log', 'locks.txt'].map((name) => ({ name, what: 'x', bytes: 3 })),
  })

t.test(
  '[RPT-12] a folder for each machine appears whole, twenty at once, by names and patterns, once each',
  async (t) => {
    const { home, fake } = await setUp(t)
    const names = Array.from({ length: 20 }, (_, n) => `web-${n + 1}`)
    fake.on('machines', ({ query }) => ({
      machines: (query['pattern'] === 'web-*' ? names : [query['pattern'] ?? '']).map((name) => ({
        ...s.machineView(name),
      })),
    }))
    const looked = new Map<string, number>()
    let open = 0
    let most = 0
    fake.on('reportAsk', ({ params }) => {
      open += 1
      most = Math.max(most, open)
      return view(params['machine'] ?? '')
    })
    fake.on('report', ({ params, query }) => {
      t.equal(query['report'], REPORT)
      const name = params['machine'] ?? ''
      looked.set(name, (looked.get(name) ?? 0) + 1)
      return looked.get(name) === 1 ? view(name, { parts: { have: 1, of: 2 } }) : done(name)
    })
    fake.on('reportFile', ({ params }) => {
      if (params['file'] === 'locks.txt') open -= 1
      return { name: params['file'] ?? '', text: `${params['machine']} ${params['file']}` }
    })
    const output = join(home.path, 'out')
    mkdirSync(join(output, 'web-2'), { recursive: true })
    writeFileSync(join(output, 'web-2', 'SUMMARY.md'), 'an older one')
    writeFileSync(join(output, 'web-2', 'old.txt'), '')
    const { status, out, err } = await home.run(['report', 'web-*', 'web-3', '--output', output])
    t.equal(status, 0, err)
    t.same(readdirSync(output).toSorted(), names.toSorted())
    t.ok(most > 1 && most <= 8, `${most} side by side`)
    t.same(
      readdirSync(join(output, 'web-2')).toSorted(),
      ['SUMMARY.md', 'locks.txt', 'run-output.log'],
      'the older one is gone',
    )
    t.equal(readFileSync(join(output, 'web-7', 'locks.txt'), 'utf8'), 'web-7 locks.txt')
    t.equal(statSync(join(output, 'web-7')).mode & 0o077, 0, 'for nobody else')
    t.match(out, `web-7: failed at install (lock)`)
    t.notMatch(out, '\u001b')
    t.match(err, 'web-7: part 1 of 2')
  },
)

t.test(
  '[RPT-12] the failed ones of a change, JSON, and one that fails does not keep the others from theirs',
  async (t) => {
    const { home, fake } = await setUp(t)
    const machines = (['failed', 'succeeded', 'unknown'] as const).map((state, n) =>
      s.machineStatus(`web-${n + 1}`, state),
    )
    fake.on('project', () => s.projectView('held', machines))
    fake.on('reportAsk', ({ params }) =>
      params['machine'] === 'web-3'
        ? problem(503, 'unavailable', 'the disk is full', 'make room')
        : done(params['machine'] ?? ''),
    )
    fake.on('reportFile', ({ params }) => ({ name: params['file'] ?? '', text: '' }))
    const output = join(home.path, 'out')
    const ended = await home.run(['report', '--failed', s.CHANGE.toLowerCase(), '--output', output, '--json'])
    t.equal(ended.status, 1)
    t.match(ended.err, /web-3: error: the disk is full/)
    t.match(JSON.parse(ended.out), [
      {
        machine: 'web-1',
        folder: join(output, 'web-1'),
        problem: null,
        files: ['SUMMARY.md', 'run-output.log', 'locks.txt'],
        error: null,
      },
      { machine: 'web-3', folder: null, error: /the disk is full/ },
    ])
    t.same(readdirSync(output), ['web-1'])
  },
)

t.test(
  '[RPT-12] what is no report is not overwritten, no name leads out of the folder, and nothing named is usage',
  async (t) => {
    const { home, fake } = await setUp(t)
    fake.on('machines', () => ({ machines: [s.machineView('web-1')] }))
    fake.on('reportAsk', () => ({
      ...done('web-1'),
      files: ['../../escaped.txt', 'a/b.txt', 'SUMMARY.md'].map((name) => ({ name, what: '', bytes: 0 })),
    }))
    fake.on('reportFile', () => ({ name: 'x', text: 'never' }))
    const output = join(home.path, 'out')
    t.equal((await home.run(['report', 'web-1', '--output', output])).status, 0)
    t.same(readdirSync(join(output, 'web-1')), ['SUMMARY.md'])
    t.match(readFileSync(join(output, 'web-1', 'SUMMARY.md'), 'utf8'), 'Cause (lock)')
    t.notOk(existsSync(join(home.path, 'escaped.txt')))
    const precious = join(home.path, 'precious')
    mkdirSync(join(precious, 'web-1', 'mine'), { recursive: true })
    const refused = await home.run(['report', 'web-1', '--output', precious])
    t.match(refused, { status: 1, err: /is no health report\n.*--output/ })
    t.same(readdirSync(join(precious, 'web-1')), ['mine'])
    t.match(await home.run(['report']), { status: 2, err: /no machine is named/ })
  },
)

t.test(
  '[RPT-17] a name that no machine has is refused, and machines of one name on two instances both come',
  async (t) => {
    const { home, fake } = await setUp(t)
    const output = join(home.path, 'out')
    for (const name of ['../../escaped', '..', 'a/b', '.hidden', 'a\nb']) {
      fake.on('machines', () => ({ machines: [s.machineView(name)] }))
      const refused = await home.run(['report', 'web-*', '--output', output])
      t.match(refused, { status: 1, err: /machine that is named .*\n.*No machine is named so/ }, name)
      t.notOk(existsSync(output), 'and nothing is written')
    }
    fake.on('machines', () => ({ machines: [s.machineView('web-1')] }))
    fake.on('reportAsk', ({ params }) => done(params['machine'] ?? ''))
    fake.on('reportFile', ({ params }) => ({ name: params['file'] ?? '', text: '' }))
    const two = makeHome({ one: fake, two: fake })
    t.teardown(two.remove)
    t.equal((await two.run(['report', 'web-1', '--output', output])).status, 0)
    t.same(readdirSync(output).toSorted(), ['web-1@one', 'web-1@two'])
  },
)
