/**
 * Health reports as the unprivileged half deals with them: an entry in `asks/` has root make one, and what root then
 * puts into `run/reports/` is carried away part by part, each when it is asked for. Called by agent.ts. It keeps
 * nothing that matters: a question that comes again, on another connection too, finds the same files.
 */
import { join } from 'node:path'
import { type AgentFrame, type CoordinatorFrame } from '../../protocol/agent.ts'
import { REPORT_PACKED_BYTES_MAX, REPORT_PART_BYTES_MAX } from '../../protocol/report.ts'
import { codeOf } from '../disk/disk.ts'
import type { AgentPorts, Cancel } from '../ports.ts'
import { guard } from './guard.ts'

const LOOK_MS = 500
/** Longer than the collector takes at most. */
const WAIT_MS_MAX = 180_000

export type Reports = {
  readonly onAsk: (frame: Extract<CoordinatorFrame, { t: 'report' }>) => void
  readonly stop: () => void
}
type Ports = Pick<AgentPorts, 'clock' | 'disk' | 'layout' | 'log' | 'startCollector'>

export function createReports(ports: Ports, send: (frame: AgentFrame) => void): Reports {
  const { clock, disk, layout, log } = ports
  let timer: Cancel | null = null
  const stop = () => {
    timer?.()
    timer = null
  }
  /** False while it is not there. */
  const answer = (report: string, part: number): boolean => {
    const path = join(layout.reports, report)
    const facts = disk.factsOf(path)
    if (facts === null) return false
    const of = Math.max(1, Math.ceil(facts.size / REPORT_PART_BYTES_MAX))
    if (facts.size > REPORT_PACKED_BYTES_MAX || part >= of) {
      send({ t: 'reportRefused', report, problem: `the report has ${facts.size} bytes and no part ${part}` })
    } else {
      const bytes = disk.read(path, part * REPORT_PART_BYTES_MAX, REPORT_PART_BYTES_MAX)
      send({ t: 'reportPart', report, part, of, base64: bytes.toString('base64') })
    }
    return true
  }
  const awaitReport = (report: string, untilAt: number) => {
    timer = clock.after(LOOK_MS, () => {
      timer = null
      if (guard(log, 'looking for a health report', { report }, () => answer(report, 0)) === true) return
      if (clock.monotonicNow() < untilAt) return awaitReport(report, untilAt)
      const problem = `the root half made no report in ${WAIT_MS_MAX / 1000} s (systemctl status smith-report.path smith-report.service)`
      send({ t: 'reportRefused', report, problem })
    })
  }
  const ask = (report: string) => {
    try {
      // Empty, so that it is there whole at once. A temporary name beside it would be taken by a collector at work.
      disk.write(join(layout.asks, report), Buffer.alloc(0), 'create', 0o640)
    } catch (error) {
      if (codeOf(error) !== 'EEXIST') throw error
    }
  }
  return {
    stop,
    onAsk: ({ report, part }) => {
      // One at a time: a newer question takes the place of an older one.
      stop()
      const isDone = guard(log, 'asking for a health report', { report }, () => {
        if (answer(report, part)) return true
        ask(report)
        ports.startCollector?.()
        awaitReport(report, clock.monotonicNow() + WAIT_MS_MAX)
        return true
      })
      if (isDone !== true)
        send({ t: 'reportRefused', report, problem: `${layout.asks} can't be written; see the journal of smith-agent` })
    },
  }
}
