/**
 * Plants a bug: the simulator is loaded once more with one place of one source file rewritten, so that no switch ever
 * stands in the program. A place that is no longer there, or there twice, is an error: a bug that is not planted
 * would never be found.
 */
import { registerHooks } from 'node:module'
import type * as world from './world.ts'
import { type BugName, type Edit, ZOO } from './zoo.ts'

const ROOT = new URL('../../', import.meta.url).href
const QUERY = '?planted='

type Simulator = typeof world

let isHooked = false
/** How many edits of each bug were made. */
const planted = new Map<BugName, number>()

/** The simulator with a bug in it; null for none. */
export async function simulatorWith(bug: BugName | null): Promise<Simulator> {
  if (bug === null) return import('./world.ts')
  if (!isHooked) hook()
  isHooked = true
  const loaded = (await import(`./world.ts${QUERY}${encodeURIComponent(bug)}`)) as Simulator
  const { edits } = ZOO[bug]
  if (planted.get(bug) !== edits.length)
    throw new Error(
      `the planted bug ${bug} is in a file that the simulator does not load: ${edits.map(([file]) => file).join(', ')}`,
    )
  return loaded
}

function hook(): void {
  registerHooks({
    // What a planted file imports is loaded anew too, so that it imports what is planted.
    resolve: (specifier, context, next) => {
      const resolved = next(specifier, context)
      const query = new URL(context.parentURL ?? ROOT).search
      const isOurs = resolved.url.startsWith(ROOT) && !resolved.url.includes('/node_modules/')
      return query.startsWith(QUERY) && isOurs
        ? { ...resolved, url: `${resolved.url.split('?')[0]}${query}` }
        : resolved
    },
    load: (url, context, next) => {
      const loaded = next(url, context)
      const { search, pathname } = new URL(url)
      if (!search.startsWith(QUERY) || loaded.source == null) return loaded
      const bug = decodeURIComponent(search.slice(QUERY.length)) as BugName
      const edits = ZOO[bug].edits.filter(([file]) => pathname.endsWith(`/${file}`))
      if (edits.length === 0) return loaded
      const text =
        typeof loaded.source === 'string' ? loaded.source : Buffer.from(loaded.source as Uint8Array).toString()
      return { ...loaded, source: edits.reduce((now, edit) => rewrite(now, bug, edit), text) }
    },
  })
}

function rewrite(text: string, bug: BugName, [file, from, to]: Edit): string {
  const parts = text.split(from)
  if (parts.length !== 2)
    throw new Error(
      `the planted bug ${bug} can't be planted: its place stands ${parts.length - 1} times in ${file}; correct test/sim/zoo.ts`,
    )
  planted.set(bug, (planted.get(bug) ?? 0) + 1)
  return parts.join(to)
}
