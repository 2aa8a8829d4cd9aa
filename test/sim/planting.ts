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
/** The edits of what is planted, by its name, and how many of them were made. */
const wanted = new Map<string, readonly Edit[]>()
const planted = new Map<string, number>()

/** The simulator with a bug in it; null for none. */
export async function simulatorWith(bug: BugName | null): Promise<Simulator> {
  return bug === null ? import('./world.ts') : simulatorEdited(bug, ZOO[bug].edits)
}

/** The simulator with any edits; `name` is told when they can't be made. */
export async function simulatorEdited(name: string, edits: readonly Edit[]): Promise<Simulator> {
  wanted.set(name, edits)
  if (!isHooked) hook()
  isHooked = true
  const loaded = (await import(`./world.ts${QUERY}${encodeURIComponent(name)}`)) as Simulator
  if (planted.get(name) !== edits.length)
    throw new Error(
      `the planted bug ${name} is in a file that the simulator does not load: ${edits.map(([file]) => file).join(', ')}`,
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
      const bug = decodeURIComponent(search.slice(QUERY.length))
      const edits = (wanted.get(bug) ?? []).filter(([file]) => pathname.endsWith(`/${file}`))
      if (edits.length === 0) return loaded
      const text =
        typeof loaded.source === 'string' ? loaded.source : Buffer.from(loaded.source as Uint8Array).toString()
      return { ...loaded, source: edits.reduce((now, edit) => rewrite(now, bug, edit), text) }
    },
  })
}

function rewrite(text: string, bug: string, [file, from, to]: Edit): string {
  const parts = text.split(from)
  if (parts.length !== 2)
    throw new Error(
      `the planted bug ${bug} can't be planted: its place stands ${parts.length - 1} times in ${file}; correct test/sim/zoo.ts`,
    )
  planted.set(bug, (planted.get(bug) ?? 0) + 1)
  return parts.join(to)
}
