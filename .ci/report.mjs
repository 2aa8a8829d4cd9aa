// Reads the tests' TAP from stdin as they run. Prints one line per file and, of each failed test, its first lines.
// Writes {passed, failed, skipped} to the file named in SMITH_COUNTS. What is counted are named tests (those right
// below a file), not single assertions; a file that fails without a failed test in it counts as one failed test.
import { writeFileSync } from 'node:fs'
import { createInterface } from 'node:readline'

const FAILURE_LINES_MAX = 40
const FAILURES_SHOWN_MAX = 25
const counts = { passed: 0, failed: 0, skipped: 0 }
let inFile = { passed: 0, failed: 0, skipped: 0 }
let shown = 0
/** The output of the test at work, kept for the case that it fails. */
let output = []

const say = (text) => process.stdout.write(`${text}\n`)

function showFailure(name) {
  shown += 1
  if (shown > FAILURES_SHOWN_MAX) return
  say(`\n  FAILED ${name}`)
  const from = Math.max(
    0,
    output.findIndex((line) => /^\s*not ok/.test(line)),
  )
  for (const line of output.slice(from, from + FAILURE_LINES_MAX)) say(`  ${line.slice(0, 300)}`)
  if (output.length - from > FAILURE_LINES_MAX) say(`  ... ${output.length - from - FAILURE_LINES_MAX} more lines`)
}

function endOfTest(line) {
  if (/^ {4}not ok.* # TODO/i.test(line) || / # (SKIP|TODO)/i.test(line)) inFile.skipped += 1
  else if (line.startsWith('    ok ')) inFile.passed += 1
  else {
    inFile.failed += 1
    output.push(line)
    showFailure(line.trim().replace(/^not ok \d+ - /, ''))
  }
  output = []
}

function endOfFile(line) {
  const isSkipped = / # (SKIP|TODO)/i.test(line)
  const name = line.replace(/^(not )?ok \d+ - /, '')
  if (isSkipped) inFile.skipped += 1
  else if (line.startsWith('not ok') && inFile.failed === 0) {
    inFile.failed += 1
    showFailure(`${name}: the file failed outside of its tests`)
  }
  const rest = [inFile.failed > 0 && `${inFile.failed} FAILED`, inFile.skipped > 0 && `${inFile.skipped} skipped`]
  say(
    `${line.startsWith('ok') ? 'ok  ' : 'FAIL'} ${name.replace(/ # time=/, '  ')}  ${[`${inFile.passed} passed`, ...rest.filter(Boolean)].join(', ')}`,
  )
  for (const key of Object.keys(counts)) counts[key] += inFile[key]
  inFile = { passed: 0, failed: 0, skipped: 0 }
  output = []
}

for await (const line of createInterface({ input: process.stdin })) {
  if (/^ {4}(not )?ok \d+/.test(line)) endOfTest(line)
  else if (/^(not )?ok \d+/.test(line)) endOfFile(line)
  else if (/^\s*Bail out!/.test(line)) {
    counts.failed += 1
    say(line)
  } else output.push(line)
}
if (shown > FAILURES_SHOWN_MAX) say(`\n... and ${shown - FAILURES_SHOWN_MAX} more failed tests`)
if (process.env.SMITH_COUNTS) writeFileSync(process.env.SMITH_COUNTS, JSON.stringify(counts))
