/** How the unprivileged half asks root for a health report and carries it away. */
import { randomBytes } from 'node:crypto'
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { REPORT_PART_BYTES_MAX } from '../../../protocol/report.ts'
import { machine } from './machine.ts'

const REPORT = 'ab'.repeat(16)

t.test(
  '[RPT-7] root is asked by a name alone, and what it made goes out part by part, over new connections too',
  async (t) => {
    let started = 0
    const m = machine(t, { ports: { startCollector: () => (started += 1) } })
    m.agent.start()
    m.accept()
    m.link().say({ t: 'report', report: REPORT, part: 0 })
    const ask = join(m.layout.asks, REPORT)
    t.equal(readFileSync(ask, 'utf8'), '', 'an empty file: nothing of it can be read')
    t.equal(started, 1)
    m.link().say({ t: 'report', report: REPORT, part: 0 })
    t.equal(m.sent('reportPart').length, 0)
    const bytes = randomBytes(REPORT_PART_BYTES_MAX + 10)
    rmSync(ask)
    writeFileSync(join(m.layout.reports, REPORT), bytes)
    m.clock.advance(1000)
    t.match(m.sent('reportPart'), [{ report: REPORT, part: 0, of: 2 }])
    m.reconnect()
    m.accept()
    m.link().say({ t: 'report', report: REPORT, part: 1 })
    const [second] = m.sent('reportPart')
    t.match(second, { part: 1, of: 2 })
    t.ok(Buffer.from(second?.base64 ?? '', 'base64').equals(bytes.subarray(REPORT_PART_BYTES_MAX)))
    m.link().say({ t: 'report', report: REPORT, part: 2 })
    t.match(m.sent('reportRefused'), [{ report: REPORT, problem: /no part 2/ }])
    t.notOk(existsSync(ask), 'what is made is not asked for again')
  },
)

t.test('[RPT-7] a root half that makes none, or a folder that takes no question, is told', async (t) => {
  const m = machine(t)
  m.agent.start()
  m.accept()
  m.link().say({ t: 'report', report: REPORT, part: 0 })
  for (let seconds = 0; seconds < 200; seconds += 10) {
    m.clock.advance(10_000)
    m.link().say({ t: 'ping', n: seconds })
  }
  t.match(m.sent('reportRefused'), [{ report: REPORT, problem: /made no report in 180 s .*smith-report\.path/ }])
  const other = 'cd'.repeat(16)
  rmSync(m.layout.asks, { recursive: true })
  m.link().say({ t: 'report', report: other, part: 0 })
  t.match(m.sent('reportRefused')[1], { report: other, problem: /asks can't be written/ })
})
