/**
 * How the runner is started, for whoever starts it (the agent in detached mode, a unit file, a test): by path, since
 * the session half may not import it. The lock makes a second start end at once with RUNNER_BUSY_STATUS.
 */
import { fileURLToPath } from 'node:url'

/** flock(1) exits with it when another runner is at work, which then sees the inbox itself. */
export const RUNNER_BUSY_STATUS = 75

/** In a package this module is part of a bundle in `agent/`, and the runner's bundle lies in `agent/runner/`. */
const RUNNER = import.meta.url.endsWith('.ts') ? '../runner/main.ts' : './runner/main.mjs'

const COLLECTOR = import.meta.url.endsWith('.ts') ? '../runner/collect.ts' : './runner/collect.mjs'

/** The argv of the collector of health reports, which must not slow down what the machine is there for. */
export function collectorCommand(configFile: string): string[] {
  const program = fileURLToPath(new URL(COLLECTOR, import.meta.url))
  return ['nice', '-n', '19', process.execPath, program, '--config', configFile]
}

/** The argv of the runner; start it detached, stdin from /dev/null, and don't wait for it. */
export function runnerCommand(configFile: string): string[] {
  return [process.execPath, fileURLToPath(new URL(RUNNER, import.meta.url)), '--config', configFile]
}
