/**
 * `smith-run`: the root half as a program. It takes `run/runner.lock` by becoming flock(1), which then becomes this
 * program again with the lock's descriptor open; a second start ends at once with status 75 and harms nothing.
 * Exits 0 when nothing is left to do. What does the work is loaded only under the lock.
 */
import { closeSync, fchmodSync, mkdirSync, openSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { RefusedError } from '../../protocol/errors.ts'
import { distrusted, steeringPaths } from '../apt/trust.ts'
import { AGENT_CONFIG_FILE, readAgentConfig } from '../config.ts'
import { createRealDisk } from '../disk/disk.ts'
import { layoutOf } from '../disk/layout.ts'
import { becomeHolder, isHolder } from '../disk/own-lock.ts'
import { RUNNER_BUSY_STATUS } from '../disk/runner-command.ts'

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { config: { type: 'string', default: AGENT_CONFIG_FILE } } })
  const config = readAgentConfig(values.config)
  // Whoever runs this without root harms nobody but themselves.
  const refusal = process.geteuid?.() === 0 ? distrusted(steeringPaths(createRealDisk(), config)) : null
  if (refusal !== null) throw new RefusedError([refusal])
  const layout = layoutOf(config.stateDir)
  process.umask(0o022)
  mkdirSync(layout.run, { recursive: true, mode: 0o751 })
  if (!isHolder(layout.runnerLock)) {
    // Root's alone: whoever can open it for reading can hold it, and no runner would be at work again.
    const fd = openSync(layout.runnerLock, 'a')
    fchmodSync(fd, 0o600)
    closeSync(fd)
    becomeHolder(layout.runnerLock, RUNNER_BUSY_STATUS, [fileURLToPath(import.meta.url), '--config', values.config])
  }
  const { runUntilIdle } = await import('./program.ts')
  await runUntilIdle(config)
}

main().then(
  () => process.exit(0),
  (error: unknown) => {
    if (error instanceof RefusedError) {
      for (const refusal of error.refusals) process.stderr.write(`smith: ${refusal.message}\n${refusal.remedy}\n`)
      process.exit(2)
    }
    process.stderr.write(`smith: the runner failed: ${error instanceof Error ? error.stack : String(error)}\n`)
    process.exit(1)
  },
)
