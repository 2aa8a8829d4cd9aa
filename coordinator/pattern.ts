/**
 * The tools of the core that are not pure by themselves: ids, hashes, patterns and the calendar. Patterns are matched by RE2,
 * whose time is linear in its input, so that no request can make the coordinator stand still.
 */
import { createHash } from 'node:crypto'
import { RE2JS } from 're2js'
import { createCalendar } from './calendar.ts'
import type { Settings, Tools, Train, TrainSettings } from './domain/events.ts'
import { machineWord } from './domain/request.ts'
import type { Random } from './ports.ts'

const CACHE_MAX = 500
const PATTERN_LENGTH_MAX = 1000

export function createTools(settings: Settings, random: Random): Tools {
  const cache = new Map<string, ReturnType<Tools['compilePattern']>>()
  const compilePattern = (source: string) => {
    const known = cache.get(source)
    if (known !== undefined) return known
    if (cache.size >= CACHE_MAX) cache.clear()
    const compiled = compile(source)
    cache.set(source, compiled)
    return compiled
  }
  const clusters = settings.clusters.map(({ pattern }) => RE2JS.compile(pattern))
  return {
    newId: () => Buffer.from(random.bytes(16)).toString('hex'),
    sha256: (text) => createHash('sha256').update(text).digest('hex'),
    compilePattern,
    captureCluster: (name) => {
      for (const pattern of clusters) {
        const matcher = pattern.matcher(name)
        if (matcher.find() && matcher.groupCount() >= 1) return matcher.group(1) ?? null
      }
      return null
    },
    calendar: createCalendar(settings.schedule),
    trains: settings.trains.map((train) => trainOf(train, settings.schedule)),
    settings,
  }
}

function trainOf(train: TrainSettings, schedule: Settings['schedule']): Train {
  const { name, approval, roles, people, windows } = train
  return {
    ...{ name, approval, roles, people },
    has: matcherOf(train.machines),
    leavesOut: matcherOf(train.except),
    windows: windows.length === 0 ? null : createCalendar({ ...schedule, windows, blackouts: [] }),
  }
}

function matcherOf(words: readonly string[]): (name: string) => boolean {
  const matchers = words.map((word) => {
    const matcher = nameMatcher(word)
    if ('problem' in matcher) throw new Error(`${word}: ${matcher.problem}`)
    return matcher.matches
  })
  return (name) => matchers.some((matches) => matches(name))
}

/** A word as requests have it, for a name or a pattern of names. */
export function nameMatcher(text: string): ReturnType<Tools['compilePattern']> {
  const word = machineWord({ text, start: 0, end: text.length })
  if (word === null || word.kind === 'address') return { problem: 'it is neither a name nor a pattern of names' }
  return word.kind === 'name' ? { matches: (name) => name === word.name } : compile(`^(?:${word.source})$`)
}

function compile(source: string): ReturnType<Tools['compilePattern']> {
  if (source.length > PATTERN_LENGTH_MAX) return { problem: `it is longer than ${PATTERN_LENGTH_MAX} characters` }
  try {
    const pattern = RE2JS.compile(source)
    return { matches: (name) => pattern.matcher(name).find() }
  } catch (error) {
    return { problem: error instanceof Error ? error.message : String(error) }
  }
}
