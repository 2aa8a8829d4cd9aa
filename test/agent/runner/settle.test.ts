/** The decision about an install whose exit nobody wrote down, as a table of everything that can be found. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { createRealDisk } from '../../../agent/disk/disk.ts'
import { tellFailure } from '../../../agent/runner/program.ts'
import { type Evidence, type Verdict, verdictOf } from '../../../agent/runner/settle.ts'

const TABLE: readonly (readonly [Evidence['history'], isAudited: boolean, isUnfinished: boolean, Verdict])[] = [
  // apt itself said how it ended: then the audit and the versions decide, or its own error.
  ['ended', true, false, 'ended'],
  ['ended', true, true, 'ended'],
  ['failed', true, false, 'failed'],
  ['failed', true, true, 'failed'],
  // It did not, and the machine shows that the plan is not done.
  ['open', true, true, 'interrupted'],
  ['none', true, true, 'interrupted'],
  // All packages are there, but what apt does last may be missing.
  ['open', true, false, 'unknown'],
  ['none', true, false, 'unknown'],
  // dpkg can't read its own state: nothing that is read of it proves anything.
  ['ended', false, false, 'unknown'],
  ['ended', false, true, 'unknown'],
  ['failed', false, false, 'unknown'],
  ['failed', false, true, 'unknown'],
  ['open', false, false, 'unknown'],
  ['open', false, true, 'unknown'],
  ['none', false, false, 'unknown'],
  ['none', false, true, 'unknown'],
]

t.test('[RUN-15] what can be proved is decided, and only the rest is unknown', (t) => {
  for (const [history, isAudited, isUnfinished, verdict] of TABLE)
    t.equal(verdictOf({ history, isAudited, isUnfinished }), verdict, `${history} ${isAudited} ${isUnfinished}`)
  t.equal(new Set(TABLE.map((row) => row.slice(0, 3).join())).size, 4 * 2 * 2, 'every combination stands in the table')
  t.end()
})

t.test('[RUN-75] what stays wrong is told once a minute, and what is new at once', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'smith-failure-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const config = { logFile: join(folder, 'smith-agent.log'), stateDir: folder }
  const disk = createRealDisk()
  const failAt = (second: number, message: string) =>
    tellFailure({ disk, now: () => second * 1000 }, config, new Error(message))
  for (let second = 0; second < 90; second += 1) failAt(second, 'bad\nblock')
  failAt(90, 'no memory')
  failAt(91, 'no memory')
  disk.write(config.logFile, Buffer.from('1970-01-01T00:01:32.000Z - - something else\n'), 'append', 0o644)
  failAt(92, 'no memory')
  t.same(readFileSync(config.logFile, 'utf8').match(/T00:0\d:\d\d\.000Z - - .*again: .{5}/g), [
    'T00:00:00.000Z - - the runner failed and is started again: bad\\x',
    'T00:01:00.000Z - - the runner failed and is started again: bad\\x',
    'T00:01:30.000Z - - the runner failed and is started again: no me',
    'T00:01:32.000Z - - the runner failed and is started again: no me',
  ])
  t.end()
})
