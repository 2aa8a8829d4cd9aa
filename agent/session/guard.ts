/**
 * Runs a piece of the agent's work so that a disk that fails in it is told in the log, with what it was for, and
 * stops nothing else. Called around every handler of a frame and of a timer.
 */
import type { Log } from '../ports.ts'

/** The result of the work, or undefined when it threw. */
export function guard<T>(log: Log, what: string, fields: object, work: () => T): T | undefined {
  try {
    return work()
  } catch (error) {
    log.error({ ...fields, problem: problemOf(error) }, `${what} failed`)
    return undefined
  }
}

export function problemOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
