/** The decision about an install whose exit nobody wrote down, as a table of everything that can be found. */
import t from 'tap'
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
