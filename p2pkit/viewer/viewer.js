// The point viewer of a report: turn, zoom, choose the frame and what the colours mean.
import {
	BufferAttribute, BufferGeometry, PerspectiveCamera, Points, PointsMaterial, Scene, SRGBColorSpace,
	Vector3, WebGLRenderer,
} from 'three';
import { OrbitControls } from 'orbit-controls';

const FIELD_OF_VIEW = 55;

function bytes( text ) {
	return Uint8Array.from( atob( text ), letter => letter.charCodeAt( 0 ) );
}

// Camera axes are x right, y down, z forward; three.js has y up and looks along -z.
function positions( frame ) {
	const steps = new Uint16Array( bytes( frame.positions ).buffer );
	const values = new Float32Array( steps.length );
	const sign = [ 1, - 1, - 1 ];
	for ( let i = 0; i < steps.length; i ++ ) {
		const axis = i % 3;
		values[ i ] = sign[ axis ] * ( frame.low[ axis ] + steps[ i ] * frame.step[ axis ] );
	}
	return values;
}

class Viewer {
	constructor( root ) {
		this.root = root;
		this.frames = JSON.parse( root.querySelector( 'script' ).textContent );
		this.stage = root.querySelector( '.stage' );
		this.renderer = new WebGLRenderer( { antialias: true } );
		this.renderer.outputColorSpace = SRGBColorSpace;
		this.renderer.setPixelRatio( Math.min( devicePixelRatio, 2 ) );
		this.stage.replaceChildren( this.renderer.domElement );
		this.renderer.setClearColor( 0x10141b );
		this.scene = new Scene();
		this.camera = new PerspectiveCamera( FIELD_OF_VIEW, 1, 0.01, 1000 );
		this.controls = new OrbitControls( this.camera, this.renderer.domElement );
		this.controls.addEventListener( 'change', () => this.draw() );
		this.material = new PointsMaterial( { vertexColors: true } );
		this.points = new Points( new BufferGeometry(), this.material );
		this.points.frustumCulled = false;
		this.scene.add( this.points );
		this.listen();
		this.show( 0 );
		new ResizeObserver( () => this.resize() ).observe( this.stage );
	}

	listen() {
		const choose = name => this.root.querySelector( `[name=${ name }]` );
		this.coloring = choose( 'coloring' );
		this.size = choose( 'size' );
		choose( 'frame' ).addEventListener( 'change', event => this.show( Number( event.target.value ) ) );
		this.coloring.addEventListener( 'change', () => this.paint() );
		this.size.addEventListener( 'input', () => this.draw() );
		choose( 'reset' ).addEventListener( 'click', () => this.look() );
		this.root.querySelector( '.controls' ).hidden = false;
	}

	show( number ) {
		this.frame = this.frames[ number ];
		const values = positions( this.frame );
		this.points.geometry.dispose();
		this.points.geometry = new BufferGeometry();
		this.points.geometry.setAttribute( 'position', new BufferAttribute( values, 3 ) );
		const middle = axis => {
			const own = values.filter( ( _, i ) => i % 3 === axis ).sort();
			return own[ own.length >> 1 ];
		};
		this.target = new Vector3( middle( 0 ), middle( 1 ), middle( 2 ) );
		const wanted = this.coloring.value;
		this.coloring.replaceChildren( ...Object.keys( this.frame.colors ).map( name => new Option( name ) ) );
		if ( wanted in this.frame.colors ) this.coloring.value = wanted;
		this.look();
		this.paint();
	}

	// From a little behind and above the camera that took the image.
	look() {
		const distance = this.target.length();
		this.camera.position.set( 0.1 * distance, 0.1 * distance, 0.05 * distance );
		this.camera.near = 0.001 * distance;
		this.camera.far = 100 * distance;
		this.camera.updateProjectionMatrix();
		this.controls.target.copy( this.target );
		this.controls.update();
		this.draw();
	}

	paint() {
		const colors = bytes( this.frame.colors[ this.coloring.value ] );
		// Stored as sRGB; three.js mixes in linear light and turns it back when it draws.
		const linear = Float32Array.from( colors, value => ( value / 255 ) ** 2.2 );
		this.points.geometry.setAttribute( 'color', new BufferAttribute( linear, 3 ) );
		this.draw();
	}

	resize() {
		const { clientWidth, clientHeight } = this.stage;
		this.camera.aspect = clientWidth / clientHeight;
		this.camera.updateProjectionMatrix();
		this.renderer.setSize( clientWidth, clientHeight );
		this.draw();
	}

	draw() {
		this.material.size = this.target.length() * 0.004 * Number( this.size.value );
		this.renderer.render( this.scene, this.camera );
	}
}

for ( const root of document.querySelectorAll( '.viewer' ) ) {
	if ( document.createElement( 'canvas' ).getContext( 'webgl2' ) ) {
		new Viewer( root );
	} else {
		root.querySelector( '.stage' ).textContent =
			'This browser offers no WebGL 2, so the points cannot be turned here. The pictures show the same values.';
	}
}
