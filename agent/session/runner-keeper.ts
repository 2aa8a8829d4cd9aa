/**
 * Sees to it that a runner is at work while there is something for it to do, where systemd does not (a demo, a
 * container). Called by agent.ts whenever that may have changed. Two runners are never at work at once: the second
 * finds the first one's lock and ends.
 */
import { RUNNER_BUSY_STATUS } from '../disk/runner-command.ts'
import type { AgentPorts, Cancel } from '../ports.ts'

const RETRY_MS_MIN = 1_000
const RETRY_MS_MAX = 60_000
/** How soon to look again for one who has found another at work; longer each time, since a run can take an hour. */
const BUSY_RETRY_MS_MIN = 2_000
const BUSY_RETRY_MS_MAX = 30_000

export type RunnerKeeper = {
  readonly check: () => void
  /** Something new lies in the inbox: the runner that was at work may have ended without seeing it. */
  readonly hurry: () => void
  readonly stop: () => void
}

type State = {
  readonly ports: Pick<AgentPorts, 'clock' | 'log' | 'startRunner'>
  readonly isNeeded: () => boolean
  readonly onEnd: () => void
  running: boolean
  failures: number
  /** How often another was found at work since the last hurry. */
  found: number
  timer: Cancel | null
  stopped: boolean
}

/** `onEnd` is called after a runner has ended, since the disk has changed then. */
export function createRunnerKeeper(ports: State['ports'], isNeeded: () => boolean, onEnd: () => void): RunnerKeeper {
  const s: State = { ports, isNeeded, onEnd, running: false, failures: 0, found: 0, timer: null, stopped: false }
  return {
    check: () => check(s),
    hurry: () => {
      if (s.found > 0) {
        s.found = 0
        s.timer?.()
        s.timer = null
      }
      check(s)
    },
    stop: () => {
      s.stopped = true
      s.timer?.()
      s.timer = null
    },
  }
}

function check(s: State): void {
  const { startRunner } = s.ports
  if (startRunner === null || s.stopped || s.running || s.timer !== null || !s.isNeeded()) return
  s.running = true
  startRunner((status) => onExit(s, status))
}

function onExit(s: State, status: number | null): void {
  s.running = false
  if (s.stopped) return
  s.onEnd()
  if (!s.isNeeded()) {
    s.failures = 0
    return
  }
  const delayMs = delayAfter(s, status)
  s.timer = s.ports.clock.after(delayMs, () => {
    s.timer = null
    check(s)
  })
}

function delayAfter(s: State, status: number | null): number {
  if (status === RUNNER_BUSY_STATUS) {
    s.found += 1
    return Math.min(BUSY_RETRY_MS_MAX, BUSY_RETRY_MS_MIN * 2 ** Math.min(s.found - 1, 10))
  }
  s.found = 0
  // Even a runner that ended well may have missed what came in its last moment; one that keeps ending is spared.
  const delayMs = Math.min(RETRY_MS_MAX, RETRY_MS_MIN * 2 ** Math.min(s.failures, 10))
  s.failures += 1
  s.ports.log.warn({ status, delayMs }, 'the runner ended and there is work for it; it is started again')
  return delayMs
}
