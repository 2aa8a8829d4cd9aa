/**
 * The tools of the core that are not pure by themselves: ids, hashes, patterns and the calendar. Patterns are matched by RE2,
 * whose time is linear in its input, so that no request can make the coordinator stand still.
 */
import { createHash } from 'node:crypto'
import { RE2JS } from 're2js'
import { createCalendar } from './calendar.ts'
import type { Settings, Tools } from './domain/events.ts'
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
    settings,
  }
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
