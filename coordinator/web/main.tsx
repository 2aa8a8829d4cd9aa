/** The dashboard: begins where the browser loads it, and shows the view that the address names. */
import { render } from 'preact'
import { Shell } from './shell.tsx'
import { begin } from './state.ts'

const page = document.querySelector('#page')
if (page !== null) render(<Shell />, page)
void begin()
