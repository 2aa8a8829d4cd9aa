/** `smith-agent figures`: what it makes of the kernel's counts, and what it says when it can't have them. */
import t from 'tap'
import { type Files, figuresOf, figuresText, sampleOf } from '../../agent/figures.ts'
import { RefusedError } from '../../protocol/errors.ts'

/** As Linux 6.1 writes them, shortened in the middle; the name in `stat` is as awkward as a name can be. */
const MEMORY = `55d0c0a00000-7ffd3a5f1000 ---p 00000000 00:00 0                          [rollup]
Rss:               61000 kB
Pss:               19500 kB
Pss_Anon:          13900 kB
Shared_Clean:      44000 kB
Anonymous:         14000 kB
AnonHugePages:       512 kB
Swap:                  0 kB
`
const statOf = (user: number, system: number) =>
  `214 (a) (node R 9) S 1 214 214 0 -1 4194560 14632 0 231 0 ${user} ${system} 7 8 20 0 7 0 68041 1090936832 15250\n`
const threadOf = (voluntary: number) =>
  `Name:\tMainThread\nThreads:\t2\nvoluntary_ctxt_switches:\t${voluntary}\nnonvoluntary_ctxt_switches:\t999\n`

function filesOf(user: number, system: number, ...switches: readonly number[]): Files {
  const found: Record<string, string> = {
    '/proc/214/smaps_rollup': MEMORY,
    '/proc/214/stat': statOf(user, system),
    ...Object.fromEntries(switches.map((count, n) => [`/proc/214/task/${214 + n}/status`, threadOf(count)])),
  }
  return {
    read: (path) => found[path] ?? fail('ENOENT', path),
    list: () => switches.map((_, n) => String(214 + n)),
  }
}
function fail(code: string, path: string): never {
  throw Object.assign(new Error(`${code}: open '${path}'`), { code })
}

t.test('[AGT-30] the figures are the kernel’s counts: memory at the end, processor and wake-ups of the span', (t) => {
  const before = sampleOf(filesOf(30, 5, 100, 7), 214)
  t.same(before, {
    residentBytes: 61_000 * 1024,
    proportionalBytes: 19_500 * 1024,
    anonymousBytes: 14_000 * 1024,
    processorTicks: 35,
    wakeUps: 107,
    threads: 2,
  })
  const after = sampleOf(filesOf(32, 6, 220, 10), 214)
  const figures = figuresOf({ pid: 214, minutes: 10, before, after, diskBytes: 109_700_000 })
  t.match(figures, { processorMs: 30, wakeUps: 123, wakeUpsPerMinute: 12.3, anonymousBytes: 14_336_000, threads: 2 })
  const text = figuresText(figures)
  for (const line of [
    /^smith-agent \S+, process 214, over 10 minutes$/m,
    /^Resident: +62\.5 MB/m,
    /^Proportional: +20\.0 MB/m,
    /^Anonymous: +14\.3 MB/m,
    /^Processor: +30 ms +0\.005 %/m,
    /^Wake-ups: +123 +12\.3 a minute/m,
    /^On disk: +109\.7 MB$/m,
  ])
    t.match(text, line)
  t.match(figuresText({ ...figures, diskBytes: null }), /^On disk: +nothing/m)
  t.end()
})

t.test('[AGT-30] what can’t be read is a refusal that says why and what to do', (t) => {
  const whole = filesOf(1, 1, 1)
  const refusalOf = (files: Files) => {
    try {
      sampleOf(files, 214)
    } catch (error) {
      if (error instanceof RefusedError) return error.refusals[0]
    }
    return undefined
  }
  t.match(refusalOf({ ...whole, read: (path) => fail('EACCES', path) }), { kind: 'not-allowed', remedy: /root/ })
  t.match(refusalOf({ ...whole, read: (path) => fail('ESRCH', path) }), { kind: 'not-found', remedy: /status/ })
  t.match(refusalOf({ ...whole, read: () => 'another kernel' }), { kind: 'not-found', message: /process 214.*Rss/ })
  t.end()
})
